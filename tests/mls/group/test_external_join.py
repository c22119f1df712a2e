"""Joining by one's own Commit: RFC 9420 12.4.3.2, 12.2, and SelfRemove of draft-ietf-mls-extensions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from slixmpp_mls.errors import InvalidError, NotForUs, UsageError
from slixmpp_mls.mls.group.commit_creation import CommitBundle, sign_group_info
from slixmpp_mls.mls.group.commit_effects import ChangeKind
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.registry import WireFormat
from slixmpp_mls.mls.schedule.message_protection import protect_private, protect_public, sign
from slixmpp_mls.mls.structures.commit import Commit, ProposalRef
from slixmpp_mls.mls.structures.credential import BasicCredential, X509Credential
from slixmpp_mls.mls.structures.extensions import Extension, RequiredCapabilities
from slixmpp_mls.mls.structures.framing import (
    AuthenticatedContent,
    FramedContent,
    MemberSender,
    MLSMessage,
    NewMemberCommitSender,
)
from slixmpp_mls.mls.structures.proposals import (
    Add,
    ExternalInit,
    GroupContextExtensions,
    PreSharedKey,
    ReInit,
    Remove,
    SelfRemove,
    Update,
)
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle, OwnLeaf, capabilities, sign_leaf
from tests.mls.group_helpers import (
    NOW,
    Room,
    body,
    bundle,
    forged_commit,
    group_info_of,
    heard,
    refused,
    supporting,
)

THREE = Room.of("alice", "bob", "carol")
ALICE = THREE["alice"]
DAVE = bundle("dave")


@pytest.fixture
def room() -> Room:
    return THREE.copy()


def enter(room: Room, made: CommitBundle, name: str) -> None:
    room.hear(made.commit, name)
    room[name] = cast(Group, made.staged.next)
    room.agree()


def own(name: str, group: Group | None = None) -> OwnLeaf:
    key = ALICE.suite.generate_signature_key() if group is None else group.signature_key
    return OwnLeaf(BasicCredential(name.encode()), key, capabilities())


@pytest.mark.parametrize("beside", [True, False])
def test_a_stranger_joins(room: Room, beside: bool) -> None:
    info = group_info_of(room["bob"], tree=not beside)
    made = Group.external_commit(info, own("dave"), now=NOW, tree=room["bob"].tree if beside else None)
    effects = made.staged.effects
    (change,) = effects.changes
    assert (change.kind, change.index, change.proposer) == (ChangeKind.ADDED, 3, NewMemberCommitSender())
    assert (effects.committer, effects.committer_index) == (NewMemberCommitSender(), 3)
    enter(room, made, "dave")
    assert room["dave"].own_index == 3
    assert room["dave"].past == ()
    assert not room["dave"].resumption_psks
    room.say("dave")
    room.say("alice")
    room.commit("dave")
    room.commit("bob", [Remove(3)])


def test_a_stranger_joins_where_somebody_has_gone(room: Room) -> None:
    room.commit("bob", [Remove(0)])
    enter(room, Group.external_commit(group_info_of(room["carol"]), own("dave"), now=NOW), "dave")
    assert room["dave"].own_index == 0
    room.commit("dave")
    room.say("dave")


def test_the_tree_grows(room: Room) -> None:
    for name in ("dave", "erin", "frank"):
        enter(room, Group.external_commit(group_info_of(room["alice"]), own(name), now=NOW), name)
    assert room["alice"].tree.leaf_count == 8
    room.say("frank")


@pytest.mark.parametrize(("name", "leaf"), [("alice", 0), ("bob", 1), ("carol", 2)])
def test_resync(room: Room, name: str, leaf: int) -> None:
    """mls-peers-lessons, users 3; openmls#1056: also from leaf 0."""
    lost = room.groups.pop(name)
    room.commit(next(iter(room.groups)))
    other = next(iter(room.groups))
    made = Group.external_commit(group_info_of(room[other]), own(name, lost), now=NOW, replaces=lost.own_index)
    assert [(change.kind.name, change.index) for change in made.staged.effects.changes] == [
        ("REMOVED", leaf),
        ("ADDED", leaf),
    ]
    enter(room, made, name)
    assert room[name].own_index == leaf
    room.say(name)
    room.commit(name)


def test_a_replaced_member_is_told(room: Room) -> None:
    made = Group.external_commit(group_info_of(room["bob"]), own("alice", ALICE), now=NOW, replaces=ALICE.own_index)
    staged = room["alice"].process(made.commit, now=NOW)
    assert staged.next is None  # type: ignore[union-attr]


def test_an_old_state_still_reads_what_was_sent_before_a_rejoin(room: Room) -> None:
    """mls-peers-lessons, users 3; openmls#2180: a rejoin loses past epochs unless the old state is kept a while."""
    late, room["bob"] = room["bob"].encrypt(b"before you came back")
    old = room["carol"]
    made = Group.external_commit(group_info_of(room["alice"]), own("carol", old), now=NOW, replaces=old.own_index)
    enter(room, made, "carol")
    refused(room["carol"], late, "epoch")
    assert heard(old, late)


def test_an_external_commit_waits_for_acceptance(room: Room) -> None:
    """mls-peers-lessons, users 3; openmls#1412: making one puts nothing into effect; it may lose."""
    info = group_info_of(room["alice"])
    made = [Group.external_commit(info, own(name), now=NOW) for name in ("dave", "erin")]
    room.hear(made[1].commit)
    room["erin"] = cast(Group, made[1].staged.next)
    room.agree()
    refused(room["alice"], made[0].commit, "epoch")
    again = Group.external_commit(group_info_of(room["erin"]), own("dave"), now=NOW)
    waiting = again.staged
    assert cast(Group, again.sent).apply(waiting, now=NOW).past == ()  # the outside is no epoch to remember
    enter(room, again, "dave")
    room.say("dave")


def test_both_directions_of_external_commits(room: Room) -> None:
    """mls-peers-lessons, library bugs: "external commits broken in both directions"."""
    enter(room, Group.external_commit(group_info_of(room["bob"]), own("dave"), now=NOW), "dave")
    enter(room, Group.external_commit(group_info_of(room["dave"]), own("erin"), now=NOW), "erin")
    for name in room.groups:
        room.commit(name)
        room.say(name)


def test_with_group_info_for_the_next(room: Room) -> None:
    made = Group.external_commit(group_info_of(room["bob"]), own("dave"), now=NOW, with_group_info=True)
    assert made.group_info is not None
    enter(room, made, "dave")
    enter(room, Group.external_commit(body(made.group_info), own("erin"), now=NOW), "erin")


def test_psks(room: Room) -> None:
    external = ExternalPSK(b"x")
    resumption = ResumptionPSK(ResumptionPSKUsage.APPLICATION, b"a room", room["carol"].epoch)
    value = room["carol"].resumption_psk(room["carol"].epoch)
    known: dict[Any, bytes | None] = {external: b"1", resumption: value}
    names = tuple(PreSharedKeyID(name, bytes(32)) for name in (external, resumption))
    info = group_info_of(room["alice"])
    made = Group.external_commit(
        info, own("carol", room["carol"]), now=NOW, psk_names=names, psks=known.get, replaces=room["carol"].own_index
    )
    del room.groups["carol"]
    for name in room.groups:
        room[name] = heard(room[name], made.commit, psks={external: b"1"}.get)
    room["carol"] = cast(Group, made.staged.next)
    room.agree()
    with pytest.raises(InvalidError, match=r"12\.4\.1"):
        # of an epoch whose secrets an outsider does not have by itself
        Group.external_commit(info, own("dave"), now=NOW, psk_names=names[1:])


def test_self_removes_are_committed_by_who_joins(room: Room) -> None:
    message, room["bob"] = room["bob"].propose(SelfRemove(), now=NOW)
    room.hear(message, "bob")
    made = Group.external_commit(group_info_of(room["alice"]), own("dave"), now=NOW, leaving=[body(message)])
    assert [change.index for change in made.staged.effects.removed] == [1]
    assert room["bob"].process(made.commit, now=NOW).next is None  # type: ignore[union-attr]
    del room.groups["bob"]
    enter(room, made, "dave")
    assert room["dave"].own_index == 1


def test_what_a_joiner_refuses_to_take_for_a_self_remove(room: Room) -> None:
    message, _ = room["bob"].propose(SelfRemove(), now=NOW)
    public = body(message)
    info = group_info_of(room["alice"])

    def attempt(leaving: Any, **options: Any) -> None:
        with pytest.raises(InvalidError):
            Group.external_commit(info, own("dave"), now=NOW, leaving=leaving, **options)

    attempt([replace(public, signature=bytes(64))])
    attempt([replace(public, content=replace(public.content, epoch=7))])
    attempt([replace(public, content=replace(public.content, group_id=b"x"))])
    attempt([replace(public, content=replace(public.content, sender=MemberSender(2)))])
    attempt([public, public])
    attempt([public], replaces=room["bob"].own_index)
    attempt([body(room["bob"].propose(Remove(1), now=NOW, public=True)[0])])
    assert Group.external_commit(info, own("dave"), now=NOW, leaving=[public])


def test_12_4_3_2_group_info_without_external_pub(room: Room) -> None:
    with pytest.raises(InvalidError, match=r"12\.4\.3\.2"):
        Group.external_commit(group_info_of(room["alice"], external=False), own("dave"), now=NOW)
    with pytest.raises(InvalidError, match=r"12\.4\.3\.3"):
        Group.external_commit(group_info_of(room["alice"], tree=False), own("dave"), now=NOW)


def test_12_4_3_group_info_is_verified(room: Room) -> None:
    info = group_info_of(room["alice"])
    for changed in (
        replace(info, signature=bytes(64)),
        replace(info, signer=1),
        replace(info, signer=9),
        sign_group_info(ALICE.suite, info, room["bob"].signature_key),
        replace(info, confirmation_tag=bytes(32)),
        replace(info, group_context=replace(info.group_context, epoch=9)),
    ):
        with pytest.raises(InvalidError):
            Group.external_commit(changed, own("dave"), now=NOW)
    unsupported = replace(info.group_context, extensions=(Extension(0xF001, b""),))
    changed = sign_group_info(ALICE.suite, replace(info, group_context=unsupported), ALICE.signature_key)
    with pytest.raises(InvalidError, match=r"12\.1\.7"):
        Group.external_commit(changed, own("dave"), now=NOW)


def test_13_4_a_joiner_must_support_the_groups_extensions() -> None:
    """GREASE in its Capabilities is no support (13.5)."""
    supports = supporting(extensions=(0xF001,))
    room = Room.of(bundle("alice", supports=supports), extensions=(Extension(0xF001, b""),))
    with pytest.raises(InvalidError, match=r"13\.4"):
        Group.external_commit(group_info_of(room["alice"]), own("dave"), now=NOW)
    joining = replace(own("dave"), capabilities=supports)
    enter(room, Group.external_commit(group_info_of(room["alice"]), joining, now=NOW), "dave")


def test_11_1_a_joiner_must_meet_the_groups_requirements() -> None:
    able = supporting(extensions=(0xF001,))
    required = RequiredCapabilities((0xF001,)).extension()
    room = Room.of(bundle("alice", supports=able), bundle("bob", supports=able), extensions=(required,))
    with pytest.raises(InvalidError, match=r"7\.3"):
        Group.external_commit(group_info_of(room["alice"]), own("dave"), now=NOW)
    joining = replace(own("dave"), capabilities=able)
    enter(room, Group.external_commit(group_info_of(room["alice"]), joining, now=NOW), "dave")


def test_7_3_a_joiner_with_the_key_of_a_member(room: Room) -> None:
    with pytest.raises(InvalidError, match=r"7\.3"):
        Group.external_commit(group_info_of(room["alice"]), own("bob", room["bob"]), now=NOW)


# --- what members refuse ---------------------------------------------------------------------


def rejoined(made: CommitBundle, client: OwnLeaf, change: Any, tag: bytes | None = None) -> bytes:
    """An external Commit with something changed, signed again."""
    message = body(made.commit)
    commit = change(message.content.content)
    framed = replace(message.content, content=commit)
    context = ALICE.context.encode()
    signature = sign(ALICE.suite, client.signature_key, WireFormat.PUBLIC_MESSAGE, framed, context)
    content = AuthenticatedContent(
        WireFormat.PUBLIC_MESSAGE, framed, signature, message.confirmation_tag if tag is None else tag
    )
    return MLSMessage.wrap(protect_public(ALICE.suite, content, b"", context))


def leaf_of(commit: Commit, client: OwnLeaf, **fields: Any) -> Commit:
    assert commit.path is not None
    leaf = sign_leaf(ALICE.suite, replace(commit.path.leaf_node, **fields), client.signature_key, b"a room", 3)
    return replace(commit, path=replace(commit.path, leaf_node=leaf))


def test_12_2_lists_of_external_commits(room: Room) -> None:
    client = own("dave")
    made = Group.external_commit(group_info_of(room["alice"]), client, now=NOW)
    pending = room.propose("bob", Add(bundle("erin").key_package))
    leaving = room.propose("bob", Remove(2))

    def more(*proposals: Any) -> Any:
        return lambda commit: replace(commit, proposals=(*commit.proposals, *proposals))

    psk = PreSharedKey(PreSharedKeyID(ExternalPSK(b"x"), bytes(32)))
    for section, change in (
        ("12.2", lambda commit: replace(commit, proposals=())),
        ("12.2", more(ExternalInit(b"again"))),
        ("12.2", more(Remove(1), Remove(2))),
        ("12.2", more(Add(bundle("erin").key_package))),
        ("12.2", more(Update(room["bob"].own_leaf))),
        ("12.2", more(GroupContextExtensions(()))),
        ("12.2", more(ReInit(b"x", 1, 1, ()))),
        ("SelfRemove", more(SelfRemove())),
        ("12.2", more(ProposalRef(pending))),
        ("12.4.3.2", more(ProposalRef(leaving))),
        ("12.4.2", more(ProposalRef(bytes(32)))),
        ("no member", more(Remove(3))),
        ("12.2", more(psk, psk)),
        ("12.4.3.2", lambda commit: replace(commit, path=None)),
        ("7.6", lambda commit: replace(commit, path=replace(commit.path, nodes=commit.path.nodes[1:]))),
        ("RFC 9420", lambda commit: replace(commit, proposals=(ExternalInit(b"bad"),))),
    ):
        refused(room["alice"], rejoined(made, client, change), section)
    refused(room["alice"], rejoined(made, client, lambda commit: commit, tag=bytes(32)), "6.1")
    assert heard(room["alice"], made.commit)


def test_12_2_a_members_commit_cannot_pose_as_external(room: Room) -> None:
    refused(room["alice"], forged_commit(room["bob"], ExternalInit(b"x")), "12.2")


def test_12_4_3_2_signed_by_who_joins(room: Room) -> None:
    client = own("dave")
    made = Group.external_commit(group_info_of(room["alice"]), client, now=NOW)
    refused(room["alice"], rejoined(made, own("erin"), lambda commit: commit), "signature")


def test_12_2_resync_brings_a_new_encryption_key(room: Room) -> None:
    """The leaf must be as that of an Update for the removed one would have to be (7.3)."""
    lost = room["carol"]
    client = own("carol", lost)
    made = Group.external_commit(group_info_of(room["alice"]), client, now=NOW, replaces=lost.own_index)
    kept = lost.own_leaf.encryption_key

    def change(commit: Commit) -> Commit:
        assert commit.path is not None
        leaf = replace(commit.path.leaf_node, encryption_key=kept)
        leaf = sign_leaf(ALICE.suite, leaf, client.signature_key, b"a room", 2)
        return replace(commit, path=replace(commit.path, leaf_node=leaf))

    refused(room["alice"], rejoined(made, client, change), "12.2")


def test_7_3_leaf_of_an_external_commit(room: Room) -> None:
    client = own("dave")
    made = Group.external_commit(group_info_of(room["alice"]), client, now=NOW)
    bob = room["bob"].own_leaf
    for section, fields in (
        ("12.4.2", {"encryption_key": bob.encryption_key}),
        ("7.2", {"capabilities": replace(bob.capabilities, versions=())}),
        ("7.3", {"extensions": (Extension(0xF001, b""),)}),
        ("7.3", {"capabilities": replace(bob.capabilities, credentials=(2,)), "credential": X509Credential(())}),
    ):
        refused(
            room["alice"],
            rejoined(made, client, lambda commit, fields=fields: leaf_of(commit, client, **fields)),
            section,
        )


def test_6_external_commits_travel_openly(room: Room) -> None:
    """RFC 9420 6: nobody outside could encrypt; a PrivateMessage always is a member's."""
    commit = Commit((ExternalInit(b"x"),), None)
    framed = FramedContent(b"a room", 1, NewMemberCommitSender(), b"", commit)
    with pytest.raises(UsageError):
        protect_private(
            ALICE.suite,
            AuthenticatedContent(WireFormat.PRIVATE_MESSAGE, framed, b"", b""),
            ALICE.secret_tree,
            ALICE.secrets.sender_data_secret,
        )


def test_a_removed_member_does_not_follow(room: Room) -> None:
    gone = room["carol"]
    room.commit("bob", [Remove(2)])
    enter(room, Group.external_commit(group_info_of(room["alice"]), own("dave"), now=NOW), "dave")
    message, _ = room["dave"].encrypt(b"x")
    refused(gone, message, "epoch", InvalidError)


def test_key_package_bundle_serves_as_well(room: Room) -> None:
    client: KeyPackageBundle = DAVE
    enter(room, Group.external_commit(group_info_of(room["alice"]), client.own_leaf, now=NOW), "dave")
    with pytest.raises(NotForUs):
        Group.join(_no_welcome(room), client)


def _no_welcome(room: Room) -> Any:
    made = room["alice"].commit([Add(bundle("erin").key_package)], now=NOW)
    assert made.welcome is not None
    return body(made.welcome)
