"""Hostile acts against clients that find out where the group is, or come back: see :mod:`.acts`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from random import Random

from slixmpp_mls.client.group.certainty import ANSWER_LABEL, Inquiry
from slixmpp_mls.errors import MLSError, PeerError
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.key_package import KeyPackage
from slixmpp_mls.mls.structures.proposals import Add, PreSharedKey, Remove
from slixmpp_mls.mls.structures.psk import PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from slixmpp_mls.policy import group_extensions
from slixmpp_mls.stanza import elements

from .acts import act
from .adversary import Adversary, Power
from .scene import BOB, CAROL, DAVE, MALLORY

__all__: list[str] = []


def _inquiries(adversary: Adversary) -> list[elements.Inquiry]:
    return [
        payload
        for stanza in adversary.scene.world.room.archive()
        for payload in stanza.payloads
        if isinstance(payload, elements.Inquiry)
    ]


@act(Power.OCCUPANT)
def replayed_inquiry(adversary: Adversary, choice: Random) -> None:
    """A member's question where the group is, once more; so that those who would answer the next one pause."""
    found = _inquiries(adversary)
    if found:
        adversary.post(*[choice.choice(found)], choice=choice)


@act(Power.OCCUPANT)
def made_up_inquiry(adversary: Adversary, choice: Random) -> None:
    """A question in the name of some leaf, signed by nobody in the group."""
    members = adversary.scene.members()
    if not members:
        return
    group = members[0].group.mls
    reply_key = adversary.suite.generate_key_pair(choice.randbytes).public
    asked = Inquiry(
        choice.randrange(6), choice.randbytes(32), adversary.scene.world.now, reply_key, choice.randbytes(64)
    )
    adversary.post(elements.Inquiry(group.group_id, group.epoch, asked.encode()), choice=choice)


@act(Power.OCCUPANT)
def answers_of_garbage(adversary: Adversary, choice: Random) -> None:
    """What looks as if somebody had answered."""
    for inquiry in _inquiries(adversary)[-3:]:
        epoch = inquiry.epoch + choice.choice([0, 0, 1, 7])
        adversary.post(elements.Answer(inquiry.group, epoch, choice.randbytes(400)), choice=choice)


@act(Power.MEMBER)
def unproven_answer(adversary: Adversary, choice: Random) -> None:
    """A state that the member has made up by itself, for everybody who has asked: without somebody, or with a ghost."""
    mallory = adversary.mallory
    if mallory is None:
        return
    group = mallory.group.mls
    others = [leaf for leaf, _ in group.members() if leaf != group.own_index]
    made = adversary.commit(group, [Remove(choice.choice(others))] if others and choice.random() < 0.7 else [])
    shown = None if made is None else made.staged.next
    if not isinstance(shown, Group):
        return
    for inquiry in _inquiries(adversary)[-4:]:
        with suppress(PeerError):
            key = Inquiry.decode(inquiry.data).reply_key
            sealed = adversary.suite.encrypt_with_label(key, ANSWER_LABEL, group.group_id, shown.group_info())
            adversary.post(elements.Answer(group.group_id, shown.epoch, sealed.encode()), choice=choice)


@act(Power.MEMBER)
def psk_of_an_early_epoch(adversary: Adversary, choice: Random) -> None:
    """A Commit with a PSK that whoever came later lacks: without a Remove it would shut them out."""
    mallory = adversary.mallory
    if mallory is None:
        return
    group = mallory.group.mls
    epoch = choice.choice([*group.resumption_psks, group.epoch])
    name = ResumptionPSK(ResumptionPSKUsage.APPLICATION, group.group_id, epoch)
    bundle = adversary.commit(group, [PreSharedKey(PreSharedKeyID(name, choice.randbytes(32)))])
    if bundle is not None:
        adversary.post_commit(bundle, group.group_id, group.epoch, choice)


@act(Power.OCCUPANT | Power.ACCOUNT)
def old_request_again(adversary: Adversary, choice: Random) -> None:
    """What somebody has once asked for, in the name of its account, whose server says so."""
    proposals = [
        payload
        for stanza in adversary.scene.world.room.archive()
        for payload in stanza.payloads
        if isinstance(payload, elements.Proposal)
    ]
    if proposals:
        adversary.scene.world.room.post([choice.choice(proposals)], BOB)


@act(Power.OCCUPANT)
def strangers_group(adversary: Adversary, choice: Random) -> None:
    """A group of its own in the same room, perhaps with the same id, and a Welcome for whoever has KeyPackages."""
    scene = adversary.scene
    mask = adversary.mask(MALLORY)
    group_id = choice.choice([scene.group_id, choice.randbytes(32)])
    own = adversary.key_package(mask)
    account = choice.choice([BOB, CAROL, DAVE])
    items = scene.world.directory.items.get(account, {}).values()
    packages = [body for item in items if isinstance(body := MLSMessage.decode(item).body, KeyPackage)]
    with suppress(MLSError, ValueError):
        group = Group.create(
            own,
            group_id,
            extensions=group_extensions(replace(scene.policy, administrators=(MALLORY,))),
            parameters=scene.world.parameters,
            random=scene.world.random,
        )
        adversary.made.add(group.own_leaf.encryption_key)
        bundle = adversary.commit(group, [Add(each) for each in packages[:1]])
        if bundle is not None:
            adversary.post_commit(bundle, group.group_id, group.epoch, choice)


@act(Power.ROOM)
def tombstone(adversary: Adversary, choice: Random) -> None:
    """A stanza is replaced in the archive by what a moderator leaves (XEP-0425), or there was never anything else."""
    room = adversary.scene.world.room
    for view in room._views:
        if view:
            place = -1 - choice.randrange(min(4, len(view)))
            view[place] = replace(view[place], payloads=(), origin_id=None, tombstone=True)
