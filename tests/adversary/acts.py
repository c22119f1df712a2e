"""The catalogue of hostile acts.

An act takes what powers it needs from an adversary that has them, chooses its details by `choice`, and puts the result
into the room; it never asks whether anybody will believe it.  One that has nothing to work with does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random

from slixmpp_mls.client.device.leaf_proofs import return_keys
from slixmpp_mls.errors import MLSError
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import SignaturePrivateKey
from slixmpp_mls.mls.group.commit_creation import CommitOptions
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.parameters import DAY, HOUR
from slixmpp_mls.mls.schedule.message_protection import (
    open_sender_data,
    protect_private,
    unprotect_private,
)
from slixmpp_mls.mls.schedule.secret_tree import SecretTree
from slixmpp_mls.mls.structures.extensions import Extension
from slixmpp_mls.mls.structures.framing import MLSMessage, PrivateMessage
from slixmpp_mls.mls.structures.key_package import KeyPackage
from slixmpp_mls.mls.structures.leaf_node import LeafNode, Lifetime
from slixmpp_mls.mls.structures.proposals import Add, AnyProposal, GroupContextExtensions, Remove, SelfRemove
from slixmpp_mls.mls.tree.leaf_creation import Completion
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.policy import DeviceVoucher, DeviceVouchers, RoomPolicy, vouch
from slixmpp_mls.policy.roster import Roster
from slixmpp_mls.stanza import elements
from slixmpp_mls.testing import Participant

from .adversary import Adversary, Mask, Power
from .scene import ALICE, BOB, CAROL, DAVE, MALLORY

__all__ = ["CATALOGUE", "Act"]

Do = Callable[[Adversary, Random], None]


@dataclass(frozen=True, slots=True)
class Act:
    """A hostile act.

    :ivar needs: the powers that it takes, all of them
    """

    name: str
    needs: Power
    do: Do


CATALOGUE: dict[str, Act] = {}
_GHOSTS = (ALICE, BOB, CAROL, DAVE, MALLORY, "nobody@n.example")


def act(needs: Power) -> Callable[[Do], Do]:
    """Into the catalogue."""

    def enter(do: Do) -> Do:
        name = do.__name__
        CATALOGUE[name] = Act(name, needs, do)
        return do

    return enter


# --- arrivals ------------------------------------------------------------------------------------


def _bluff(adversary: Adversary, mask: Mask, choice: Random) -> Completion:
    """Any mixture of proofs that the adversary can make or copy; none is by the keys that it would have to be by."""
    keys: list[SignaturePrivateKey] = []
    vouchers: list[DeviceVoucher] = []
    if choice.random() < 0.4:
        keys.append(adversary.suite.generate_signature_key(choice.randbytes))
    if choice.random() < 0.3:
        vouchers += _copied_vouchers(adversary)[:2]
    if choice.random() < 0.3:
        vouchers.append(_forged_voucher(adversary, mask, choice))
    return adversary.arriving(keys=keys, vouchers=vouchers[:4], newcomer=choice.random() < 0.4)


def _copied_vouchers(adversary: Adversary) -> list[DeviceVoucher]:
    """Genuine vouchers, out of leaves that everybody can see."""
    found: list[DeviceVoucher] = []
    for person in adversary.scene.members():
        for _, leaf in person.group.mls.members():
            with suppress(MLSError):
                entry = DeviceVouchers.found_in(leaf.extensions)
                found += () if entry is None else entry.vouchers
    return found


def _forged_voucher(adversary: Adversary, mask: Mask, choice: Random) -> DeviceVoucher:
    """In the name of a device of that account, but signed by another key."""
    issuers = [client for client in adversary.scene.invited if client.account == mask.account]
    issuer = choice.choice(issuers) if issuers else ClientIdentity.new(mask.account)
    if issuer == mask.device.identity:
        issuer = ClientIdentity.new(mask.account)
    now = adversary.scene.world.now
    own = mask.device.signature_key(adversary.suite)
    return vouch(adversary.suite, own, issuer, mask.device.identity, own.public, Lifetime(now - HOUR, now + 9 * DAY))


def _pretend(adversary: Adversary, choice: Random) -> Mask:
    """A device that bears somebody's name: a made-up device of it, or one that exists."""
    account = choice.choice(_GHOSTS)
    existing = [client.device for client in adversary.scene.invited if client.account == account]
    return adversary.mask(account, choice.choice([None, *existing]))


@act(Power.OCCUPANT)
def ghost_by_external_commit(adversary: Adversary, choice: Random) -> None:
    """Somebody's name, a key of one's own, and any proofs that can be made up; perhaps in place of a real leaf."""
    door = adversary.door()
    if door is None:
        return
    mask = _pretend(adversary, choice)
    replaces = None
    group = adversary.scene.people[0].group
    if adversary.scene.is_member(adversary.scene.people[0]) and choice.random() < 0.5:
        replaces = choice.choice([index for index, _ in group.mls.members()])
    bundle = adversary.external_commit(mask, door, replaces=replaces, complete=_bluff(adversary, mask, choice))
    if bundle is not None:
        context = door.group_context
        adversary.post_commit(bundle, context.group_id, context.epoch, choice)


@act(Power.OCCUPANT)
def coup_by_a_ghost(adversary: Adversary, choice: Random) -> None:
    """An external Commit in a name, and at once another one by which the ghost uses that name's rights."""
    door = adversary.door()
    if door is None:
        return
    mask = _pretend(adversary, choice)
    bundle = adversary.external_commit(mask, door, complete=_bluff(adversary, mask, choice))
    if bundle is None or mask.group is None:
        return
    context, ghost = door.group_context, mask.group
    adversary.post_commit(bundle, context.group_id, context.epoch, choice)
    coup = adversary.commit(ghost, _usurpation(adversary, ghost, choice))
    if coup is not None:
        adversary.post_commit(coup, ghost.group_id, ghost.epoch, choice)


def _usurpation(adversary: Adversary, group: Group, choice: Random) -> list[AnyProposal]:
    """Changes that take rights: removals, arrivals, another policy."""
    present = {leaf.signature_key for _, leaf in group.members()}
    others = [leaf for leaf, _ in group.members() if leaf != group.own_index]
    kinds = choice.sample(["remove", "add", "policy", "forget"], choice.randint(1, 3))
    proposals: list[AnyProposal] = []
    if "remove" in kinds and others:
        victims = choice.sample(others, min(len(others), choice.randint(1, 2)))
        proposals += [Remove(LeafIndex(leaf)) for leaf in victims]
    if "add" in kinds:
        account = choice.choice([*_GHOSTS, MALLORY])
        proposals.append(Add(adversary.key_package(adversary.mask(account)).key_package))
        if choice.random() < 0.3:
            items = adversary.scene.world.directory.items.get(DAVE, {}).values()
            genuine = [body for item in items if isinstance(body := MLSMessage.decode(item).body, KeyPackage)]
            proposals += [Add(each) for each in genuine[:1] if each.leaf_node.signature_key not in present]
    before = group.context.extensions
    if "policy" in kinds:
        room = adversary.scene.world.room.jid
        proposals.append(GroupContextExtensions(RoomPolicy(room, (MALLORY, BOB)).replaced_in(before)))
    elif "forget" in kinds:
        bare: tuple[Extension, ...] = tuple(each for each in before if each.extension_type == RoomPolicy.TYPE)
        proposals.append(GroupContextExtensions(bare))
    return proposals


@act(Power.OCCUPANT)
def ghost_asks(adversary: Adversary, choice: Random) -> None:
    """A new-member Add in somebody's name."""
    record = adversary.scene.people[0].group.room_state.record
    mask = _pretend(adversary, choice)
    epoch = max((person.epoch for person in adversary.scene.members()), default=1) + choice.choice([0, 0, 0, 1])
    adversary.post(
        adversary.asking(mask, record.group_id, epoch, _bluff(adversary, mask, choice)),
        choice=choice,
    )


@act(Power.OCCUPANT)
def storm_of_requests(adversary: Adversary, choice: Random) -> None:
    """Many requests, in as many names."""
    record = adversary.scene.people[0].group.room_state.record
    epoch = max((person.epoch for person in adversary.scene.members()), default=1)
    for number in range(choice.randint(10, 24)):
        mask = adversary.mask(choice.choice([f"crowd{number}@n.example", BOB]))
        adversary.post(adversary.asking(mask, record.group_id, epoch), choice=choice)
        adversary.masks.remove(mask)


@act(Power.OCCUPANT)
def thief_returns(adversary: Adversary, choice: Random) -> None:
    """A state stolen before its owner healed: a return with its old return keys, or a Commit in its place."""
    stolen = [
        mask
        for mask in adversary.masks
        if mask.group is not None and mask.group.own_leaf.encryption_key in adversary.stolen
    ]
    door = adversary.door()
    if not stolen or door is None:
        return
    mask = choice.choice(stolen)
    assert mask.group is not None
    keys = return_keys(mask.group, ())
    complete = adversary.arriving(keys=keys)
    old = mask.group
    if choice.random() < 0.5:
        replaces = Roster.of(_members(adversary)).leaf_of(mask.device.identity)
        bundle = adversary.external_commit(mask, door, replaces=replaces, complete=complete)
        mask.group = old if bundle is None else mask.group
        if bundle is not None:
            adversary.masks.append(Mask(mask.device, old))
            adversary.post_commit(bundle, door.group_context.group_id, door.group_context.epoch, choice)
    else:
        epoch = max((person.epoch for person in adversary.scene.members()), default=1)
        adversary.post(adversary.asking(mask, old.group_id, epoch, complete), choice=choice)


def _is_stolen(adversary: Adversary, mask: Mask) -> bool:
    return mask.group is not None and mask.group.own_leaf.encryption_key in adversary.stolen


def _members(adversary: Adversary) -> list[tuple[LeafIndex, LeafNode]]:
    members = adversary.scene.members()
    return list(members[0].group.mls.members()) if members else []


# --- a member without rights ---------------------------------------------------------------------


@act(Power.MEMBER)
def usurp(adversary: Adversary, choice: Random) -> None:
    """A Commit, or a proposal, of what the member has no right to."""
    mallory = adversary.mallory
    if mallory is None:
        return
    group = mallory.group.mls
    proposals = _usurpation(adversary, group, choice)
    if choice.random() < 0.5:
        bundle = adversary.commit(group, proposals)
        if bundle is not None:
            adversary.post_commit(bundle, group.group_id, group.epoch, choice)
        return
    for proposal in proposals:
        _propose(adversary, mallory, proposal, choice)


def _propose(adversary: Adversary, mallory: Participant, proposal: AnyProposal, choice: Random) -> None:
    group = mallory.group.mls
    with suppress(MLSError, ValueError):
        message, after = group.propose(proposal, now=adversary.scene.world.now, random=adversary.scene.world.random)
        _keep(mallory, group.with_secret_tree(after.secret_tree))  # used keys only: it forgets its own proposal
        adversary.post(elements.Proposal(group.group_id, group.epoch, message), choice=choice)


def _keep(mallory: Participant, group: Group) -> None:
    with mallory.group.room_state.change() as change:
        change.put_group(group)


@act(Power.MEMBER)
def own_devices(adversary: Adversary, choice: Random) -> None:
    """As many devices of its own as it gets in: by Adds, by vouchers, in Commits of its own."""
    mallory = adversary.mallory
    if mallory is None:
        return
    group = mallory.group.mls
    adds: list[AnyProposal] = []
    for _ in range(choice.randint(1, 6)):
        adds.append(Add(adversary.key_package(adversary.mask(MALLORY)).key_package))
    bundle = adversary.commit(group, adds)
    if bundle is not None:
        adversary.post_commit(bundle, group.group_id, group.epoch, choice)


@act(Power.MEMBER)
def vouched_device(adversary: Adversary, choice: Random) -> None:
    """A device with a genuine voucher by the member, which may have been removed since."""
    person, door = adversary.scene.mallory, adversary.door()
    if person is None or door is None:
        return
    mask = adversary.mask(MALLORY)
    now = adversary.scene.world.now
    key = mask.device.signature_key(adversary.suite).public
    voucher = person.device.vouch_for(adversary.suite, mask.device.identity, key, Lifetime(now - HOUR, now + 90 * DAY))
    complete = adversary.arriving(vouchers=[voucher])
    bundle = adversary.external_commit(mask, door, complete=complete)
    if bundle is not None:
        adversary.post_commit(bundle, door.group_context.group_id, door.group_context.epoch, choice)


@act(Power.MEMBER)
def impersonate_by_update(adversary: Adversary, choice: Random) -> None:
    """A new leaf of the member's own that bears another name."""
    mallory = adversary.mallory
    if mallory is None:
        return
    group = mallory.group.mls
    mask = adversary.mask(
        choice.choice([ALICE, BOB, DAVE]), choice.choice([None, adversary.scene.bob.device.identity.device])
    )
    own = mask.device.own_leaf(adversary.suite)
    if choice.random() < 0.5:
        with suppress(MLSError):
            message, _ = group.propose_update(own, now=adversary.scene.world.now, random=adversary.scene.world.random)
            adversary.post(elements.Proposal(group.group_id, group.epoch, message), choice=choice)
        return
    with suppress(MLSError):
        options = CommitOptions(leaf=own)
        draft = group.draft_commit((), now=adversary.scene.world.now, by_reference=(), options=options)
        bundle = group.finish_commit(draft)
        adversary.post_commit(bundle, group.group_id, group.epoch, choice)


@act(Power.MEMBER)
def encrypt_anew(adversary: Adversary, choice: Random) -> None:
    """What somebody has signed, encrypted once more under another generation of the victim's (RFC 9420 6.3, 15.1)."""
    mallory = adversary.mallory
    if mallory is None:
        return
    group = mallory.group.mls
    for spoken in reversed(adversary.scene.spoken[-6:]):
        body = MLSMessage.decode(spoken.message).body
        if not isinstance(body, PrivateMessage) or body.epoch != group.epoch:
            continue
        for tree in _trees(adversary, group):
            with suppress(MLSError):
                sender = open_sender_data(group.suite, body, group.secrets.sender_data_secret)
                content, used = unprotect_private(group.suite, body, sender, tree)
                signed = content.verify(
                    group.suite, group.tree.member(LeafIndex(sender.leaf_index)).signature_key, group.context.encode()
                )
                for _ in range(choice.choice([1, 1, 2, 5])):
                    message, used = protect_private(group.suite, signed, used, group.secrets.sender_data_secret)
                adversary.post(
                    elements.Application(group.group_id, group.epoch, MLSMessage.wrap(message)), choice=choice
                )
                return


def _trees(adversary: Adversary, group: Group) -> list[SecretTree]:
    """Secret trees of this epoch, the freshest first: software that keeps what it should delete."""
    kept = adversary.kept_trees.get(group.epoch_authenticator)
    return [group.secret_tree] if kept is None else [kept, group.secret_tree]


@act(Power.MEMBER)
def fat_proposals(adversary: Adversary, choice: Random) -> None:
    """Proposals of leaves as fat as they get, and of many of them."""
    mallory = adversary.mallory
    if mallory is None:
        return
    size = choice.choice([2_000, 5_000, 60_000])

    def fatten(leaf: LeafNode, key: object) -> LeafNode:
        # RFC 9420 7.3: a leaf lists its extensions
        listed = replace(leaf.capabilities, extensions=(*leaf.capabilities.extensions, 0xFAFA))
        return replace(leaf, capabilities=listed, extensions=(*leaf.extensions, Extension(0xFAFA, bytes(size))))

    for _ in range(choice.randint(1, 5)):
        mask = adversary.mask(MALLORY)
        _propose(adversary, mallory, Add(adversary.key_package(mask, fatten).key_package), choice)


@act(Power.MEMBER)
def storm_of_proposals(adversary: Adversary, choice: Random) -> None:
    """Many proposals, most of them of what the member may not do."""
    mallory = adversary.mallory
    if mallory is None:
        return
    kind = choice.choice(["add", "remove", "own"])
    for number in range(choice.randint(10, 24)):
        if kind == "remove":
            leaves = [leaf for leaf, _ in mallory.group.mls.members() if leaf != mallory.group.mls.own_index]
            _propose(adversary, mallory, Remove(choice.choice(leaves)), choice)
            continue
        mask = adversary.mask(MALLORY if kind == "own" else f"crowd{number}@n.example")
        _propose(adversary, mallory, Add(adversary.key_package(mask).key_package), choice)
        adversary.masks.remove(mask)


@act(Power.MEMBER)
def void_commit(adversary: Adversary, choice: Random) -> None:
    """A Commit that is valid by RFC 9420 and void by the policy, and the GroupInfo of what it would lead to."""
    mallory = adversary.mallory
    if mallory is None:
        return
    group = mallory.group.mls
    bundle = adversary.commit(
        group, [Remove(choice.choice([leaf for leaf, _ in group.members() if leaf != group.own_index]))]
    )
    if bundle is not None and isinstance(bundle.staged.next, Group):
        after = bundle.staged.next
        bundle = replace(bundle, group_info=after.group_info())
        adversary.post_commit(bundle, group.group_id, group.epoch, choice)


@act(Power.MEMBER)
def leave(adversary: Adversary, choice: Random) -> None:
    """It wishes to leave, or does as if it did, and stays."""
    mallory = adversary.mallory
    if mallory is not None:
        _propose(adversary, mallory, SelfRemove(), choice)


@act(Power.MEMBER)
def speak(adversary: Adversary, choice: Random) -> None:
    """Ordinary messages, with gaps in their generations."""
    mallory = adversary.mallory
    if mallory is None:
        return
    group = mallory.group.mls
    with suppress(MLSError):
        for _ in range(choice.choice([1, 1, 20])):
            message, group = group.encrypt(
                b"hear me", left_out=[each.reference or b"" for each in group.pending_proposals]
            )
        _keep(mallory, group)
        adversary.post(elements.Application(group.group_id, group.epoch, message), choice=choice)


# --- whoever sits in the room --------------------------------------------------------------------


def _stanza(adversary: Adversary, choice: Random) -> tuple[elements.RoomElement, ...]:
    seen = adversary.scene.world.room.archive()
    return choice.choice(seen).payloads if seen else ()


@act(Power.OCCUPANT)
def replay(adversary: Adversary, choice: Random) -> None:
    """A stanza of the room once more, or a part of it."""
    payloads = _stanza(adversary, choice)
    if payloads and choice.random() < 0.3:
        payloads = (choice.choice(payloads),)
    adversary.post(*payloads, choice=choice)


@act(Power.OCCUPANT)
def mutate(adversary: Adversary, choice: Random) -> None:
    """A stanza of the room with octets changed."""
    changed: list[elements.RoomElement] = []
    for payload in _stanza(adversary, choice):
        octets = bytearray(payload.data)
        for _ in range(choice.randint(1, 3)):
            octets[choice.randrange(len(octets))] ^= 1 << choice.randrange(8)
        changed.append(replace(payload, data=bytes(octets)))
    adversary.post(*changed, choice=choice)


@act(Power.OCCUPANT)
def garbage_of_a_later_epoch(adversary: Adversary, choice: Random) -> None:
    """Well-formed messages that say they are of an epoch to come, attributed to whomever the room says."""
    record = adversary.scene.people[0].group.room_state.record
    epoch = max((person.epoch for person in adversary.scene.members()), default=1)
    for _ in range(choice.randint(1, 4)):
        later = epoch + choice.choice([1, 1, 2, 7, 2**40])
        kind = choice.choice([1, 2, 3])
        body = PrivateMessage(record.group_id, later, kind, b"", choice.randbytes(28), choice.randbytes(300))  # type: ignore[arg-type]
        with suppress(Exception):
            message = MLSMessage.wrap(body)
            element = {1: elements.Application, 2: elements.Proposal, 3: elements.Commit}[kind]
            adversary.post(element(record.group_id, later, message), choice=choice)


@act(Power.OCCUPANT)
def nonsense(adversary: Adversary, choice: Random) -> None:
    """Anything at all in the right elements."""
    record = adversary.scene.people[0].group.room_state.record
    group = choice.choice([record.group_id, choice.randbytes(32)])
    epoch = choice.choice([0, 1, record.joined_epoch + 1, 2**64 - 1])
    kind = choice.choice([elements.Application, elements.Proposal, elements.Commit])
    adversary.post(kind(group, epoch, choice.randbytes(choice.randint(1, 200))), choice=choice)


# --- the room's server ---------------------------------------------------------------------------


@act(Power.ROOM)
def withhold(adversary: Adversary, choice: Random) -> None:
    """Something that is on its way never arrives, or later."""
    room = adversary.scene.world.room
    if not room.in_flight:
        return
    stanza = room.lose(choice.randrange(len(room.in_flight)))
    if choice.random() < 0.7:
        room.in_flight.append(stanza)


@act(Power.ROOM)
def reorder(adversary: Adversary, choice: Random) -> None:
    choice.shuffle(adversary.scene.world.room.in_flight)


@act(Power.ROOM)
def deliver_one(adversary: Adversary, choice: Random) -> None:
    """Something arrives, perhaps twice."""
    room = adversary.scene.world.room
    if room.in_flight:
        room.deliver(choice.randrange(len(room.in_flight)), keep=choice.random() < 0.3)


@act(Power.ROOM)
def rename(adversary: Adversary, choice: Random) -> None:
    """What is on its way comes in another name."""
    room = adversary.scene.world.room
    claims = [None, MALLORY, *(person.account for person in adversary.scene.people)]
    room.in_flight[:] = [replace(stanza, claimed=choice.choice(claims)) for stanza in room.in_flight]


@act(Power.ROOM)
def show_only_to_some(adversary: Adversary, choice: Random) -> None:
    """Somebody does not get to see what is on its way, for as long as the adversary lasts."""
    room = adversary.scene.world.room
    if not room._view_of:
        room.split([choice.choice([BOB, CAROL])])
    if room.in_flight:
        room.deliver(choice.randrange(len(room.in_flight)), to=choice.choice([0, 0, 1]))


@act(Power.ROOM)
def expire(adversary: Adversary, choice: Random) -> None:
    """The archive forgets what is old, or everything."""
    room = adversary.scene.world.room
    room.expire(choice.randint(0, room._count))


# --- the server of Bob's account -----------------------------------------------------------------


@act(Power.ACCOUNT)
def made_up_device_in_the_directory(adversary: Adversary, choice: Random) -> None:
    """Bob's node has KeyPackages of a device that he does not have."""
    mask = adversary.mask(BOB, choice.choice([None, adversary.scene.bob.device.identity.device]))
    bundle = adversary.key_package(mask, _bluff(adversary, mask, choice))
    items = adversary.scene.world.directory.items.setdefault(BOB, {})
    items[bundle.reference] = MLSMessage.wrap(bundle.key_package)


@act(Power.ACCOUNT)
def empty_directory(adversary: Adversary, choice: Random) -> None:
    """Bob's node has nothing."""
    adversary.scene.world.directory.items[BOB] = {}


@act(Power.ACCOUNT | Power.OCCUPANT)
def request_by_the_account(adversary: Adversary, choice: Random) -> None:
    """A device that Bob's server lists asks to be added, in the very name that the server stands for."""
    mask = adversary.mask(BOB)
    record = adversary.scene.people[0].group.room_state.record
    epoch = max((person.epoch for person in adversary.scene.members()), default=1)
    adversary.post(adversary.asking(mask, record.group_id, epoch, _bluff(adversary, mask, choice)), choice=choice)
