#!/usr/bin/env python3
"""Make the examples of the specification anew: run its story and write it into its documents.

The people, their keys and the clock of the story are fixed, so that what is new is new for a reason;
but HPKE takes no randomness from outside (``cryptography`` offers no way to), so every run gives other
ciphertexts.  Nothing depends on them: the tests replay the story from the examples as they stand.

Written are the listings of the documents after a comment ``<!-- generated: name -->``; the copies of the schema and of
test vectors after ``<!-- copied: ... -->``; and story.json: what a reader needs to replay the story, private keys of
some devices among it.  **These are keys for tests**; no other device may ever use them.

    python xep/generate_examples.py            # writes
    python xep/generate_examples.py --check    # says whether the copies are up to date

All members follow the story with our own code while it is made, and the policy is checked at each Commit, so
that an example which breaks a rule never gets into the document.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256, shake_256
from pathlib import Path
from random import Random
from uuid import UUID
from xml.sax.saxutils import escape, quoteattr

from lxml import etree

from slixmpp_mls.client.device.leaf_proofs import arriving, renewing, return_keys
from slixmpp_mls.client.group.ephemeral import seal as seal_ephemeral
from slixmpp_mls.client.group.group_info_key import (
    EncryptedGroupInfo,
    GroupInfoKey,
    as_element,
    begins_key,
    key_after,
    open_group_info,
    seal_group_info,
)
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls import xml_form
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.commit_creation import CommitBundle, CommitOptions
from slixmpp_mls.mls.group.group import Group, external_proposal
from slixmpp_mls.mls.group.message_processing import ReceivedMessage, ReceivedProposal
from slixmpp_mls.mls.group.staging import StagedCommit
from slixmpp_mls.mls.registry import CredentialType, ProposalType
from slixmpp_mls.mls.structures.framing import MLSMessage, NewMemberProposalSender
from slixmpp_mls.mls.structures.leaf_node import Lifetime
from slixmpp_mls.mls.structures.proposals import Add, AnyProposal, GroupContextExtensions, Remove
from slixmpp_mls.mls.structures.welcome import GroupInfo, Welcome
from slixmpp_mls.mls.tree.leaf_creation import Completion, KeyPackageBundle, OwnLeaf, capabilities, create_key_package
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.policy import EXTENSION_TYPES, GroupView, RoomPolicy, group_extensions, vouch
from slixmpp_mls.policy.check import check, judge
from slixmpp_mls.policy.roster import Roster
from slixmpp_mls.rooms.content import PROFILE
from slixmpp_mls.stanza import RoomElement, parse
from slixmpp_mls.stanza.rich import STATES
from slixmpp_mls.stanza.sce import Envelope
from slixmpp_mls.stanza.xml import write_datetime

HERE = Path(__file__).resolve().parent
STORY, SCHEMA = HERE / "story.json", HERE / "mls.xsd"
DOCUMENTS = tuple(
    HERE / f"{name}.xml"
    for name in ("mls", "mls-policy", "mls-recovery", "mls-operations", "mls-trust", "mls-structures")
)

ROOM = "coven@chat.shakespeare.lit"
START = datetime(2026, 10, 2, 20, 30, 0, tzinfo=UTC)
SUITE = CipherSuite.get(1)
ED25519 = 2055
WARNING = "TEST KEYS. Published on purpose, for replaying the examples of mls.xml. No other device may use them."


class Randomness:
    """Octets that look random and are the same in each run."""

    def __init__(self, seed: str) -> None:
        self._seed, self._count = seed, 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return shake_256(f"{self._seed} {self._count}".encode()).digest(size)


class Person:
    """A device, its keys, and its view of the group."""

    def __init__(self, account: str, resource: str, nickname: str, label: str) -> None:
        self.random = Randomness(f"{account}/{resource}")
        self.identity = ClientIdentity(account, self.random(8).hex())
        self.jid, self.nickname, self.label = f"{account}/{resource}", nickname, label
        self.signature_key = SUITE.generate_signature_key(self.random)
        self.packages: list[KeyPackageBundle] = []
        self.group: Group | None = None

    @property
    def account(self) -> str:
        return self.identity.account

    @property
    def state(self) -> Group:
        assert self.group is not None, f"{self.identity} is in no group"
        return self.group

    def own_leaf(self) -> OwnLeaf:
        listed = capabilities(
            cipher_suites=(SUITE.id,),
            extensions=EXTENSION_TYPES,
            proposals=(ProposalType.SELF_REMOVE,),
            credentials=(CredentialType.BASIC, CredentialType.X509),
            random=self.random,
        )
        return OwnLeaf(self.identity.credential(), self.signature_key, listed, complete=renewing(SUITE))

    def make_package(self, now: int, complete: Completion | None = None) -> KeyPackageBundle:
        lifetime = Lifetime(now - 3600, now + 28 * 86400)
        own = self.own_leaf()
        bundle = create_key_package(
            SUITE, replace(own, complete=complete or own.complete), lifetime, random=self.random
        )
        self.packages.append(bundle)
        return bundle


@dataclass
class Story:
    """The room: it puts stanzas into an order, and shows them to all who are in the group."""

    people: list[Person] = field(default_factory=list)
    listings: dict[str, str] = field(default_factory=dict)
    stanzas: list[dict[str, object]] = field(default_factory=list)
    moment: datetime = START
    info_key: GroupInfoKey | None = None
    random: Randomness = field(default_factory=lambda: Randomness("the room"))
    last_id: str = ""
    last_xml: str = ""

    @property
    def now(self) -> int:
        return int(self.moment.timestamp())

    def person(self, *names: str) -> Person:
        self.people.append(Person(*names))
        return self.people[-1]

    def reflect(
        self, name: str, sender: Person, elements: str, origin_id: str, *, minutes: float = 1, **facts: object
    ) -> str:
        """A stanza gets its place in the room's order and becomes the listing `name`."""
        self.moment += timedelta(minutes=minutes)
        self.last_id = self.random(8).hex()
        self.last_xml = message(
            {"from": f"{ROOM}/{sender.nickname}", "id": origin_id, "type": "groupchat"},
            f"{elements}\n{extras(origin_id, elements)}\n"
            f"<stanza-id xmlns='urn:xmpp:sid:0' by='{ROOM}' id='{self.last_id}'/>",
        )
        self.listings[name] = self.last_xml
        self.stanzas.append(
            {"name": name, "archive_id": self.last_id, "time": self.now, "from": str(sender.identity), **facts}
        )
        return self.last_id

    def deliver(self, data: bytes, *, committer: Person | None = None, bundle: CommitBundle | None = None) -> None:
        """Everybody in the group processes a message; `committer` applies its own."""
        for person in self.people:
            if person.group is None:
                continue
            if person is committer:
                assert bundle is not None
                check_policy(person.state, bundle.staged)
                person.group = person.state.apply(bundle.staged, now=self.now)
                continue
            try:
                processed = person.state.process(data, now=self.now)
            except Exception as error:
                raise AssertionError(f"{person.identity} refuses a message: {error}") from error
            if isinstance(processed, StagedCommit):
                check_policy(person.state, processed)
                if processed.next is None:
                    person.group = None
                    continue
            person.group = person.state.apply(processed, now=self.now)

    def commit(
        self,
        name: str,
        committer: Person,
        proposals: Sequence[AnyProposal] = (),
        *,
        newcomers: Sequence[Person] = (),
        options: CommitOptions | None = None,
    ) -> None:
        """A Commit that wins."""
        epoch = committer.state.epoch
        proposals = with_removed(committer.state, proposals, self.now)
        options = replace(options or CommitOptions(), complete=renewing(SUITE))
        view = view_of(committer.state)
        draft = committer.state.draft_commit(proposals, now=self.now, options=options, random=committer.random)
        kept = not begins_key(draft.staged.effects, view.policy, epoch + 1)
        handed_over = (self.info_key.extension(),) if kept and self.info_key is not None else ()
        bundle = committer.state.finish_commit(draft, in_welcome=handed_over, random=committer.random)
        check_policy(committer.state, bundle.staged)
        assert isinstance(bundle.sent, Group)
        assert isinstance(bundle.staged.next, Group)
        self.info_key = key_after(self.info_key, draft.staged.effects, view.policy, bundle.staged.next)
        committer.group = bundle.sent
        elements = room_element("commit", committer.state.group_id, epoch, bundle.commit)
        if bundle.welcome is not None:
            elements += "\n" + room_element("welcome", committer.state.group_id, epoch + 1, bundle.welcome)
        if bundle.group_info is not None:
            elements += "\n" + self.group_info(bundle.staged.next, bundle.group_info, committer)
        self.reflect(name, committer, elements, origin_id(committer), kind="commit", epoch=epoch, wins=True)
        self.deliver(bundle.commit, committer=committer, bundle=bundle)
        welcome = None if bundle.welcome is None else MLSMessage.decode(bundle.welcome).body
        for person in newcomers:
            assert isinstance(welcome, Welcome)
            joined = Group.join(welcome, person.packages[-1]).state
            assert isinstance(joined, Group)
            assert RoomPolicy.required_in(joined.context.extensions).room == ROOM
            person.group = joined
        self.check_agreement(committer)

    def group_info(self, group: Group, message: bytes, sender: Person) -> str:
        """A GroupInfo as it is sent: encrypted for members, present and past."""
        policy = RoomPolicy.required_in(group.context.extensions)
        sealed = seal_group_info(self.info_key, policy, group, message, sender.random)
        key_epoch = EncryptedGroupInfo.decode(sealed).key_epoch
        return room_element("group-info", group.group_id, group.epoch, sealed, {"key-epoch": str(key_epoch)})

    def check_agreement(self, one: Person) -> None:
        """All members are in the same state; it is noted with the last stanza."""
        authenticators = {person.state.epoch_authenticator for person in self.people if person.group is not None}
        assert authenticators == {one.state.epoch_authenticator}
        self.stanzas[-1] |= {
            "epoch_after": one.state.epoch,
            "epoch_authenticator_after": one.state.epoch_authenticator.hex(),
            "members_after": sorted(str(ClientIdentity.from_leaf(leaf)) for _, leaf in one.state.members()),
        }

    def say(self, name: str, sender: Person, text: str, *, sent_as: str | None = None) -> bytes:
        """An application message; returns the envelope."""
        origin = origin_id(sender)
        body = etree.Element("{jabber:client}body", nsmap={None: "jabber:client"})
        body.text = text
        written = self.moment + timedelta(minutes=1)
        padding = Random(int.from_bytes(sender.random(8), "big"))  # noqa: S311  # an example's
        envelope = Envelope((body,), sender.account, ROOM, written).seal(PROFILE, rng=padding)
        data, state = sender.state.encrypt(envelope, origin.encode(), random=sender.random)
        sender.group = state
        element = room_element("application", state.group_id, state.epoch, data)
        if sent_as is not None:
            attributes = {"from": sender.jid, "id": origin, "to": ROOM, "type": "groupchat"}
            self.listings[sent_as] = message(attributes, f"{element}\n{extras(origin, element)}")
        self.reflect(
            name, sender, element, origin, kind="application", epoch=state.epoch, body=text, envelope=envelope.decode()
        )
        for person in self.people:
            if person.group is not None and person is not sender:
                processed = person.state.process(data, now=self.now)
                assert isinstance(processed, ReceivedMessage)
                assert processed.data == envelope
                person.group = person.state.apply(processed, now=self.now)
        return envelope


def view_of(group: Group) -> GroupView:
    policy = RoomPolicy.required_in(group.context.extensions)
    return GroupView.of(group.public, policy, Roster.of(group.members()))


def check_policy(group: Group, staged: StagedCommit) -> None:
    check(view_of(group), staged.effects)


def with_removed(group: Group, proposals: Sequence[AnyProposal], now: int) -> list[AnyProposal]:
    """Removals, with the list of removed clients that follows from them and from what waits."""
    draft = group.draft_commit(proposals, now=now)
    view, extensions = view_of(group), group.context.extensions
    removed = judge(view, draft.staged.effects).removed
    if removed == view.removed:
        return list(proposals)
    return [*proposals, GroupContextExtensions(removed.replaced_in(extensions))]


# --- writing XML as the document has it --------------------------------------------------------


def wrapped(data: bytes | str, width: int = 76) -> str:
    text = base64.b64encode(data).decode() if isinstance(data, bytes) else data
    return "\n".join(text[start : start + width] for start in range(0, len(text), width))


def indented(text: str, levels: int = 1) -> str:
    return "\n".join("  " * levels + line for line in text.splitlines())


def room_element(name: str, group: bytes, epoch: int, data: bytes, more: dict[str, str] | None = None) -> str:
    attributes = {"xmlns": "urn:xmpp:mls:0", "epoch": str(epoch), "group": base64.b64encode(group).decode()}
    return f"<{name} {attributes_of(name, attributes | (more or {}))}>\n{indented(wrapped(data))}\n</{name}>"


def extras(origin: str, elements: str) -> str:
    encrypted = "<encryption xmlns='urn:xmpp:eme:0' name='MLS' namespace='urn:xmpp:mls:0'/>\n"
    return (
        f"{encrypted if elements.startswith('<application') else ''}"
        f"<origin-id xmlns='urn:xmpp:sid:0' id='{origin}'/>\n<store xmlns='urn:xmpp:hints'/>"
    )


def attributes_of(name: str, attributes: dict[str, str]) -> str:
    parts = [f"{key}='{escape(value)}'" for key, value in attributes.items()]
    return ("\n" + " " * (len(name) + 2)).join(parts)


def message(attributes: dict[str, str], content: str) -> str:
    return f"<message {attributes_of('message', attributes)}>\n{indented(content)}\n</message>"


def iq(attributes: dict[str, str], content: str) -> str:
    return f"<iq {attributes_of('iq', attributes)}>\n{indented(content)}\n</iq>"


def origin_id(person: Person) -> str:
    octets = person.random(16).hex()
    return f"{octets[:8]}-{octets[8:12]}-4{octets[13:16]}-8{octets[17:20]}-{octets[20:]}"


def publish(person: Person, number: str, node: str, item: str, payload: str, options: dict[str, str]) -> str:
    fields = "\n".join(f"<field var='{name}'>\n  <value>{value}</value>\n</field>" for name, value in options.items())
    form = (
        "<x xmlns='jabber:x:data' type='submit'>\n  <field type='hidden' var='FORM_TYPE'>\n"
        "    <value>http://jabber.org/protocol/pubsub#publish-options</value>\n  </field>\n"
        f"{indented(fields)}\n</x>"
    )
    content = (
        "<pubsub xmlns='http://jabber.org/protocol/pubsub'>\n"
        f"  <publish node='{node}'>\n    <item id='{item}'>\n{indented(payload, 3)}\n    </item>\n  </publish>\n"
        f"  <publish-options>\n{indented(form, 2)}\n  </publish-options>\n</pubsub>"
    )
    return iq({"from": person.jid, "id": number, "type": "set"}, content)


def key_package(bundle: KeyPackageBundle) -> str:
    data = MLSMessage.wrap(bundle.key_package)
    return (
        f"<key-package xmlns='urn:xmpp:mls:0'\n             ref='{bundle.reference.hex()}'\n             suite='1'>\n"
        f"{indented(wrapped(data))}\n</key-package>"
    )


def device(person: Person, added: datetime) -> str:
    return (
        f"<device xmlns='urn:xmpp:mls:0' added='{write_datetime(added)}' id='{person.identity.device}'>\n"
        f"  <label>{escape(person.label)}</label>\n"
        f"  <key scheme='{ED25519}'>{base64.b64encode(person.signature_key.public).decode()}</key>\n"
        "  <key-packages count='50' suite='1'/>\n</device>"
    )


def pretty(element: etree._Element) -> str:
    """An element without attributes to speak of, indented, with long base64 in lines of its own."""
    lines: list[str] = []

    def write(node: etree._Element, level: int) -> None:
        name = etree.QName(node).localname
        space = "" if level else f" xmlns={quoteattr(xml_form.NAMESPACE)}".replace('"', "'")
        attributes = "".join(f" {key}='{value}'" for key, value in node.items())
        text = (node.text or "").strip()
        pad = "  " * level
        if len(node):
            lines.append(f"{pad}<{name}{space}{attributes}>")
            for child in node:
                write(child, level + 1)
            lines.append(f"{pad}</{name}>")
        elif not text:
            lines.append(f"{pad}<{name}{space}{attributes}/>")
        elif len(text) > 70:
            lines.append(f"{pad}<{name}{space}{attributes}>\n{indented(wrapped(text), level + 1)}\n{pad}</{name}>")
        else:
            lines.append(f"{pad}<{name}{space}{attributes}>{escape(text)}</{name}>")

    write(element, 0)
    return "\n".join(lines)


# --- the story ---------------------------------------------------------------------------------


def tell() -> Story:
    story = Story()
    crone = story.person("crone1@shakespeare.lit", "desktop", "firstwitch", "Cauldron")
    tablet = story.person("crone1@shakespeare.lit", "tablet", "firstwitch-tablet", "Tablet")
    hag = story.person("hag66@shakespeare.lit", "pda", "secondwitch", "PDA")
    phone = story.person("hag66@shakespeare.lit", "phone", "secondwitch-phone", "Phone")
    wicca = story.person("wiccarocks@shakespeare.lit", "laptop", "thirdwitch", "Laptop")
    open_node = {"pubsub#access_model": "open", "pubsub#persist_items": "true", "pubsub#max_items": "max"}

    # publishing
    for person in (tablet, hag, wicca):
        person.make_package(story.now)
    story.listings["device"] = publish(
        hag, "d1", "urn:xmpp:mls:0:devices", hag.identity.device, device(hag, START - timedelta(days=30)),
        {**open_node, "pubsub#send_last_published_item": "on_sub_and_presence", "pubsub#notify_retract": "true"},
    )  # fmt: skip
    package = hag.packages[0]
    item_id = f"{hag.identity.device}/1/42"
    story.listings["key-package"] = publish(
        hag, "k1", "urn:xmpp:mls:0:key-packages", item_id, key_package(package),
        {**open_node, "pubsub#send_last_published_item": "never"},
    )  # fmt: skip
    story.listings["structure"] = pretty(xml_form.to_xml(MLSMessage.decode(MLSMessage.wrap(package.key_package))))

    # creating
    policy = RoomPolicy(ROOM, (crone.account,))
    octets = policy.encode()
    story.listings["policy"] = wrapped(octets.hex(), 64)
    own = crone.make_package(story.now)
    crone.group = Group.create(own, crone.random(32), extensions=group_extensions(policy), random=crone.random)

    # adding
    story.listings["fetch"] = iq(
        {"from": crone.jid, "id": "k2", "to": hag.account, "type": "get"},
        "<pubsub xmlns='http://jabber.org/protocol/pubsub'>\n  <items node='urn:xmpp:mls:0:key-packages'>\n"
        f"    <item id='{item_id}'/>\n  </items>\n</pubsub>",
    )
    story.listings["fetched"] = iq(
        {"from": hag.account, "id": "k2", "to": crone.jid, "type": "result"},
        "<pubsub xmlns='http://jabber.org/protocol/pubsub'>\n  <items node='urn:xmpp:mls:0:key-packages'>\n"
        f"    <item id='{item_id}'>\n{indented(key_package(package), 3)}\n    </item>\n  </items>\n"
        "</pubsub>",
    )
    before = story.random(8).hex()
    newcomers = (tablet, hag, wicca)
    story.commit("add", crone, [Add(one.packages[0].key_package) for one in newcomers], newcomers=newcomers)
    group = base64.b64encode(crone.state.group_id).decode()
    invitation = origin_id(crone)
    story.listings["invitation"] = message(
        {"from": crone.jid, "id": invitation, "to": hag.account, "type": "normal"},
        f"<x xmlns='jabber:x:conference' jid='{ROOM}'/>\n"
        f"<invitation xmlns='urn:xmpp:mls:0'\n            after='{before}'\n            group='{group}'/>\n"
        f"<origin-id xmlns='urn:xmpp:sid:0' id='{invitation}'/>\n<store xmlns='urn:xmpp:hints'/>",
    )

    # talking
    envelope = story.say("hello", hag, "When shall we three meet again?", sent_as="send")
    story.listings["envelope"] = envelope.decode().replace("'", "&apos;").replace('"', "'").replace("><", ">\n<")
    story.listings["envelope"] = nested(story.listings["envelope"])
    story.say("reply", crone, "When the hurlyburly's done, when the battle's lost and won.")
    read_up_to = story.last_id

    # typing
    written = story.moment + timedelta(minutes=1)
    composing = etree.Element(f"{{{STATES}}}composing", nsmap={None: STATES})
    typing = Envelope((composing,), wicca.account, ROOM, written).seal(PROFILE, rng=Random(7))  # noqa: S311
    story.listings["typing-envelope"] = nested(typing.decode().replace('"', "'").replace("><", ">\n<"))
    ephemeral = seal_ephemeral(wicca.state, typing, wicca.random)
    story.listings["typing"] = message(
        {"from": wicca.jid, "id": origin_id(wicca), "to": ROOM, "type": "groupchat"},
        f"{room_element('ephemeral', ephemeral.group, ephemeral.epoch, ephemeral.data)}\n"
        "<no-store xmlns='urn:xmpp:hints'/>\n<no-permanent-store xmlns='urn:xmpp:hints'/>",
    )

    # a race
    options = CommitOptions(complete=renewing(SUITE))
    first = crone.state.commit(now=story.now, options=options, random=crone.random)
    second = hag.state.commit(now=story.now, options=options, random=hag.random)
    assert isinstance(first.sent, Group)
    assert isinstance(second.sent, Group)
    crone.group, hag.group = first.sent, second.sent
    element = room_element("commit", crone.state.group_id, 1, first.commit)
    story.reflect("winner", crone, element, origin_id(crone), kind="commit", epoch=1, wins=True)
    won, won_at = (story.last_id, story.last_xml), story.moment
    story.deliver(first.commit, committer=crone, bundle=first)
    story.check_agreement(crone)
    element = room_element("commit", crone.state.group_id, 1, second.commit)
    story.reflect("loser", hag, element, origin_id(hag), minutes=0, kind="commit", epoch=1, wins=False)
    story.commit("retry", hag)

    # catching up
    story.listings["query"] = iq(
        {"from": wicca.jid, "id": "a1", "to": ROOM, "type": "set"},
        "<query xmlns='urn:xmpp:mam:2' queryid='q1'>\n  <set xmlns='http://jabber.org/protocol/rsm'>\n"
        f"    <max>250</max>\n    <after>{read_up_to}</after>\n  </set>\n</query>",
    )
    archived = re.sub(r"\n  <stanza-id [^>]*/>", "", won[1])
    archived = archived.replace("<message ", "<message xmlns='jabber:client'\n         ", 1)
    story.listings["result"] = message(
        {"from": ROOM, "id": "ar1", "to": wicca.jid},
        f"<result xmlns='urn:xmpp:mam:2' id='{won[0]}' queryid='q1'>\n  <forwarded xmlns='urn:xmpp:forward:0'>\n"
        f"    <delay xmlns='urn:xmpp:delay' stamp='{write_datetime(won_at)}'/>\n{indented(archived, 2)}\n"
        "  </forwarded>\n</result>",
    )
    story.listings["fin"] = iq(
        {"from": ROOM, "id": "a1", "to": wicca.jid, "type": "result"},
        "<fin xmlns='urn:xmpp:mam:2' complete='true'>\n  <set xmlns='http://jabber.org/protocol/rsm'>\n"
        f"    <first>{won[0]}</first>\n    <last>{story.last_id}</last>\n  </set>\n</fin>",
    )

    # rejoining
    old = Roster.of(crone.state.members()).leaf_of(hag.identity)
    assert old is not None
    group_id, keys = hag.state.group_id, return_keys(hag.state, ())
    hag.group = None
    again = hag.make_package(story.now, arriving(SUITE, group_id, keys=keys))
    asking = external_proposal(crone.state.public, NewMemberProposalSender(), Add(again.key_package), hag.signature_key)
    element = room_element("proposal", crone.state.group_id, crone.state.epoch, asking)
    story.reflect("request", hag, element, origin_id(hag), kind="proposal", epoch=crone.state.epoch)
    story.deliver(asking)
    story.commit("readd", crone, [Remove(LeafIndex(old))], newcomers=[hag])
    story.say("again", hag, "I'll do, I'll do, and I'll do.")

    # a new device, for which another one vouches
    voucher = vouch(
        SUITE, hag.signature_key, hag.identity, phone.identity, phone.signature_key.public,
        Lifetime(story.now - 3600, story.now + 90 * 86400),
    )  # fmt: skip
    vouched = phone.make_package(story.now, arriving(SUITE, group_id, vouchers=[voucher]))
    add = Add(vouched.key_package)
    asking = external_proposal(crone.state.public, NewMemberProposalSender(), add, phone.signature_key)
    element = room_element("proposal", crone.state.group_id, crone.state.epoch, asking)
    story.reflect("asking", phone, element, origin_id(phone), kind="proposal", epoch=crone.state.epoch)
    story.deliver(asking)
    story.commit("granted", crone, newcomers=[phone])

    # an external Commit, by who has missed the one before
    keys = return_keys(hag.state, ())
    key = story.info_key
    hag.group = None
    story.commit("door", crone, options=CommitOptions(group_info=True))
    found = re.search(r"<group-info[^>]*>([^<]*)</group-info>", story.last_xml)
    assert found is not None
    shown = as_element(crone.state.group_id, crone.state.epoch, base64.b64decode(found[1]))
    info = MLSMessage.decode(open_group_info(shown, key, SUITE)).body
    assert isinstance(info, GroupInfo)
    old = Roster.of(crone.state.members()).leaf_of(hag.identity)
    assert old is not None
    own = replace(hag.own_leaf(), complete=arriving(SUITE, group_id, keys=keys))
    joining = Group.external_commit(
        info, own, now=story.now, replaces=LeafIndex(old), with_group_info=True, random=hag.random
    )
    view = view_of(crone.state)
    check(view, joining.staged.effects)
    assert isinstance(joining.staged.next, Group)
    assert not begins_key(joining.staged.effects, view.policy, joining.staged.next.epoch)
    assert joining.group_info is not None
    element = room_element("commit", crone.state.group_id, crone.state.epoch, joining.commit)
    element += "\n" + story.group_info(joining.staged.next, joining.group_info, hag)
    story.reflect("external", hag, element, origin_id(hag), kind="commit", epoch=crone.state.epoch, wins=True)
    story.deliver(joining.commit)
    hag.group = joining.staged.next
    story.check_agreement(crone)

    # leaving
    asking, state = wicca.state.propose(Remove(wicca.state.own_index), now=story.now, random=wicca.random)
    wicca.group = state
    element = room_element("proposal", wicca.state.group_id, wicca.state.epoch, asking)
    story.reflect("leave", wicca, element, origin_id(wicca), kind="proposal", epoch=wicca.state.epoch)
    for person in (crone, tablet, hag, phone):
        processed = person.state.process(asking, now=story.now)
        assert isinstance(processed, ReceivedProposal)
        person.group = person.state.apply(processed, now=story.now)
    story.commit("left", crone)

    # removing
    leaves = Roster.of(crone.state.members()).leaves_of(hag.account)
    story.commit("remove", crone, [Remove(LeafIndex(leaf)) for leaf in leaves])
    assert hag.group is None
    assert phone.group is None
    story.say("after", crone, "A drum, a drum! Macbeth doth come.")
    return story


def nested(xml: str) -> str:
    """XML with one element in each line, indented."""
    level, lines = 0, []
    for line in xml.splitlines():
        if line.startswith("</"):
            level -= 1
        lines.append("  " * level + line)
        if re.match(r"<[^/][^>]*[^/]>$", line):
            level += 1
    return "\n".join(lines)


def facts(story: Story) -> dict[str, object]:
    """story.json."""
    shown = [person for person in story.people if person.packages and person.jid != "crone1@shakespeare.lit/desktop"]
    return {
        "warning": WARNING,
        "room": ROOM,
        "suite": SUITE.id,
        "devices": [
            {
                "identity": str(person.identity),
                "signature_key": person.signature_key.public.hex(),
                "key_identifier": sha256(person.signature_key.public).hexdigest(),
            }
            for person in story.people
        ],
        "private_keys": [
            {
                "identity": str(person.identity),
                "signature_private_key": person.signature_key.encode().hex(),
                "key_packages": [
                    {
                        "reference": bundle.reference.hex(),
                        "key_package": MLSMessage.wrap(bundle.key_package).hex(),
                        "init_private_key": bundle.init_key.encode().hex(),
                        "encryption_private_key": bundle.leaf_key.encode().hex(),
                    }
                    for bundle in person.packages
                ],
            }
            for person in shown
        ],
        "stanzas": story.stanzas,
    }


# --- the document ------------------------------------------------------------------------------


def put(documents: dict[Path, str], comment: str, text: str) -> None:
    """Replace the listing after a comment, which stands in one of the documents."""
    assert "]]>" not in text
    begin = rf"(<!-- {re.escape(comment)} -->\s*<(example|code)[^>]*><!\[CDATA\[\n)"
    pattern = re.compile(begin + r"(.*?)(\]\]></\2>)", re.DOTALL)
    places = 0
    for path, document in documents.items():
        documents[path], count = pattern.subn(lambda found: f"{found[1]}{text.strip()}\n{found[4]}", document)
        places += count
    if places != 1:
        raise SystemExit(f"the documents have {places} places for {comment!r}")


def commit_elsewhere() -> str:
    """A stanza with the locations of the test vector."""
    case = json.loads((HERE / "vectors" / "commit-location.json").read_text(encoding="utf-8"))
    found = [parse(case[name]) for name in ("commit_location", "welcome_location")]
    content = "\n".join(
        room_element(each.NAME, each.group, each.epoch, each.data) for each in found if isinstance(each, RoomElement)
    )
    origin = "e3f9ba6c-97c6-4ac0-9271-8dc8ad90a3a0"
    attributes = {"from": "coven@chat.shakespeare.lit/secondwitch", "id": origin, "type": "groupchat"}
    return message(attributes, f"{content}\n{extras(origin, content)}")


def annotations(name: str) -> str:
    """A live stanza with an element of the test vector."""
    case = json.loads((HERE / "vectors" / "annotations.json").read_text(encoding="utf-8"))
    element = parse(case[name]["element"])
    assert isinstance(element, RoomElement)
    origin = str(UUID(bytes=sha256(name.encode()).digest()[:16], version=4))
    attributes = {"from": case[name]["from"], "id": origin, "to": "coven@chat.shakespeare.lit", "type": "groupchat"}
    return message(
        attributes,
        f"{room_element(element.NAME, element.group, element.epoch, element.data)}\n"
        "<no-store xmlns='urn:xmpp:hints'/>\n<no-permanent-store xmlns='urn:xmpp:hints'/>",
    )


def operation(name: str) -> str:
    """The stanza of a step of the test vector, as its sender writes it."""
    steps = json.loads((HERE / "vectors" / "operations.json").read_text(encoding="utf-8"))["steps"]
    (step,) = (each for each in steps if each["name"] == name)
    found = [parse(element) for element in step["elements"]]
    content = "\n".join(
        room_element(each.NAME, each.group, each.epoch, each.data) for each in found if isinstance(each, RoomElement)
    )
    origin = str(UUID(bytes=sha256(name.encode()).digest()[:16], version=4))
    attributes = {"from": "crone1@shakespeare.lit/desktop", "id": origin, "to": step["room"], "type": "groupchat"}
    return message(attributes, f"{content}\n{extras(origin, content)}")


def two_suites() -> str:
    """KeyPackages of one device for two suites, as its server shows them."""
    case = json.loads((HERE / "vectors" / "operations.json").read_text(encoding="utf-8"))
    account, _, device = case["follower"].partition("/")
    newest = {each["suite"]: each for each in case["key_packages"]}
    items = []
    for suite, each in sorted(newest.items()):
        text = indented(wrapped(bytes.fromhex(each["key_package"])), 1)
        attributes = {"xmlns": "urn:xmpp:mls:0", "ref": each["reference"], "suite": str(suite)}
        element = f"<key-package {attributes_of('key-package', attributes)}>\n{text}\n</key-package>"
        items.append(f"    <item id='{device}/{suite}/42'>\n{indented(element, 3)}\n    </item>\n")
    return iq(
        {"from": account, "id": "k3", "to": "crone1@shakespeare.lit/desktop", "type": "result"},
        "<pubsub xmlns='http://jabber.org/protocol/pubsub'>\n  <items node='urn:xmpp:mls:0:key-packages'>\n"
        f"{''.join(items)}  </items>\n</pubsub>",
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the examples of the specification anew.")
    parser.add_argument("--check", action="store_true", help="only compare the copies; writes nothing")
    parser.add_argument("--schema", action="store_true", help="only copy these; leaves the story as it is")
    options = parser.parse_args(arguments)
    old = {path: path.read_text(encoding="utf-8") for path in DOCUMENTS}
    documents = dict(old)
    put(documents, "copied: mls.xsd", SCHEMA.read_text(encoding="utf-8"))
    put(documents, "copied: commit-location", commit_elsewhere())
    put(documents, "copied: annotation-request", annotations("request"))
    put(documents, "copied: annotations", annotations("answer"))
    for name in ("link", "reinit", "creation", "branch"):
        put(documents, f"copied: {name}", operation(name))
    put(documents, "copied: suites", two_suites())
    if options.check:
        same = documents == old
        print("the schema in mls.xml is " + ("up to date" if same else "old: run this script with --schema"))
        return 0 if same else 1
    if not options.schema:
        story = tell()
        for name, text in story.listings.items():
            put(documents, f"generated: {name}", text)
        STORY.write_text(json.dumps(facts(story), indent=2) + "\n", encoding="utf-8")
    for path, document in documents.items():
        path.write_text(document, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
