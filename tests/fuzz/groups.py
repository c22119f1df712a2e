"""Groups: what strangers and servers send to a member, and what a malicious member signs.

Octets that anybody may send rarely get past a signature.  The insider targets therefore sign
what the fuzzer makes with a member's own keys, so that it reaches the rules behind.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.commit_creation import CommitOptions
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.registry import WireFormat
from slixmpp_mls.mls.schedule.message_protection import protect_private, protect_public, sign
from slixmpp_mls.mls.structures.commit import Commit
from slixmpp_mls.mls.structures.credential import BasicCredential
from slixmpp_mls.mls.structures.framing import (
    ApplicationData,
    AuthenticatedContent,
    FramedContent,
    MemberSender,
    MLSMessage,
    PublicMessage,
    content_select,
)
from slixmpp_mls.mls.structures.leaf_node import Lifetime
from slixmpp_mls.mls.structures.proposals import Add, GroupContextExtensions, Remove, SelfRemove
from slixmpp_mls.mls.structures.welcome import GroupInfo, Welcome, group_info_tbs
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle, OwnLeaf, capabilities, create_key_package

from . import seeds
from .registry import target

NOW = 1_800_000_000
SUITE = CipherSuite.get(1)


def _octets(name: str) -> Callable[[int], bytes]:
    """The same randomness in every process, or seeds made in one would mean nothing in another."""
    return random.Random(name).randbytes


def _client(name: str) -> KeyPackageBundle:
    dice = _octets(name)
    own = OwnLeaf(BasicCredential(name.encode()), SUITE.generate_signature_key(dice), capabilities(random=dice))
    return create_key_package(SUITE, own, Lifetime(NOW - 3600, NOW + 86400), random=dice)


def _group() -> tuple[Group, Group]:
    """Alice and Bob in their second epoch, after Alice has added Bob and Carol."""
    bob, carol = _client("bob"), _client("carol")
    alone = Group.create(_client("alice"), b"coven", random=_octets("group"))
    adds = [Add(bob.key_package), Add(carol.key_package)]
    made = alone.commit(adds, now=NOW, random=_octets("commit"))
    assert made.welcome is not None
    welcome = MLSMessage.decode(made.welcome).body
    assert isinstance(welcome, Welcome)
    joined = Group.join(welcome, bob).state
    assert isinstance(joined, Group)
    sent = made.sent
    assert isinstance(sent, Group)
    return sent.apply(made.staged, now=NOW), joined


ALICE, BOB = _group()
ALICE_BEFORE = ALICE.pieces()
DAVE = _client("dave")
PROPOSALS = (Add(DAVE.key_package), Remove(2), GroupContextExtensions(()))


def _hear(message: bytes) -> None:
    try:
        processed = ALICE.process(message, now=NOW)
    finally:
        assert ALICE.pieces() == ALICE_BEFORE  # whether refused or staged: nothing has changed
    if processed is not None:
        ALICE.apply(processed, now=NOW)


def _from_bob() -> Iterator[bytes]:
    yield BOB.encrypt(b"hello", random=_octets("a"))[0]
    for public in (False, True):
        yield BOB.propose_update(now=NOW, public=public, random=_octets("b"))[0]
        for proposal in (*PROPOSALS, SelfRemove()):
            yield BOB.propose(proposal, now=NOW, public=public, random=_octets("c"))[0]
        for path in (None, True):
            options = CommitOptions(public=public, path=path)
            yield BOB.commit(PROPOSALS, now=NOW, options=options, random=_octets("d")).commit
    info = MLSMessage.decode(BOB.group_info(random=_octets("e"))).body
    assert isinstance(info, GroupInfo)
    yield Group.external_commit(info, DAVE.own_leaf, now=NOW, random=_octets("f")).commit


@target(_from_bob)
def group_process(data: bytes) -> None:
    """Whatever comes from the room."""
    _hear(data)


def _contents() -> Iterator[bytes]:
    for message in _from_bob():
        body = MLSMessage.decode(message).body
        if isinstance(body, PublicMessage):
            yield content_select.encode(body.content.content)
    for value in seeds.generated(FramedContent, 50):
        yield content_select.encode(value.content)


@target(_contents)
def group_insider(data: bytes) -> None:
    """Content that a member has signed, openly if it can be, else encrypted."""
    content = content_select.decode(data)
    context = BOB.context.encode()
    form = WireFormat.PRIVATE_MESSAGE if isinstance(content, ApplicationData) else WireFormat.PUBLIC_MESSAGE
    framed = FramedContent(BOB.group_id, BOB.epoch, MemberSender(BOB.own_index), b"", content)
    signature = sign(SUITE, BOB.signature_key, form, framed, context)
    tag = b"tag" if isinstance(content, Commit) else None
    signed = AuthenticatedContent(form, framed, signature, tag)
    if form is WireFormat.PUBLIC_MESSAGE:
        _hear(MLSMessage.wrap(protect_public(SUITE, signed, BOB.secrets.membership_key, context)))
    else:
        message, _ = protect_private(SUITE, signed, BOB.secret_tree, BOB.secrets.sender_data_secret)
        _hear(MLSMessage.wrap(message))


def _group_infos() -> Iterator[bytes]:
    for tree in (True, False):
        for external in (True, False):
            body = MLSMessage.decode(BOB.group_info(tree=tree, external=external)).body
            assert isinstance(body, GroupInfo)
            yield body.encode()


@target(_group_infos)
def group_info(data: bytes) -> None:
    """A GroupInfo that a member has signed, read by somebody who wants to join by an external Commit."""
    info = GroupInfo.decode(data)
    signature = SUITE.sign_with_label(BOB.signature_key, "GroupInfoTBS", group_info_tbs(info))
    Group.external_commit(replace(info, signature=signature), DAVE.own_leaf, now=NOW)
