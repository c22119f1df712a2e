"""Groups from creation on: every operation, by value and by reference, open and encrypted, in every cipher suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import cast

import pytest

from slixmpp_mls.errors import InvalidError, MalformedError, NotForUs, UsageError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite, SignaturePrivateKey
from slixmpp_mls.mls.group.commit_creation import CommitOptions
from slixmpp_mls.mls.group.commit_effects import ChangeKind
from slixmpp_mls.mls.group.group import Group, external_proposal
from slixmpp_mls.mls.group.message_processing import ReceivedMessage, ReceivedProposal
from slixmpp_mls.mls.group.staging import StagedCommit
from slixmpp_mls.mls.registry import GREASE, CipherSuiteId, ExtensionType
from slixmpp_mls.mls.schedule.message_protection import no_padding
from slixmpp_mls.mls.structures.commit import Commit
from slixmpp_mls.mls.structures.credential import BasicCredential, Certificate, UnknownCredential, X509Credential
from slixmpp_mls.mls.structures.extensions import (
    ApplicationId,
    Extension,
    ExternalPub,
    ExternalSender,
    ExternalSenders,
    RequiredCapabilities,
)
from slixmpp_mls.mls.structures.framing import (
    ExternalSenderIndex,
    MemberSender,
    MLSMessage,
    NewMemberProposalSender,
    PrivateMessage,
)
from slixmpp_mls.mls.structures.leaf_node import CommitSource, KeyPackageSource, Lifetime, UpdateSource
from slixmpp_mls.mls.structures.proposals import (
    Add,
    AnyProposal,
    ExternalInit,
    GroupContextExtensions,
    PreSharedKey,
    ReInit,
    Remove,
    SelfRemove,
    UnknownProposal,
    Update,
)
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from slixmpp_mls.mls.tree.leaf_creation import KNOWN_COMPONENTS, OwnLeaf, capabilities
from tests.mls.group_helpers import (
    DAY,
    NOW,
    PUBLIC,
    Room,
    body,
    bundle,
    group_info_of,
    heard,
    lookup,
    refused,
    supporting,
    welcome_of,
    won,
)

THREE = Room.of("alice", "bob", "carol")
FORMS = pytest.mark.parametrize("public", [False, True], ids=["encrypted", "open"])


@pytest.fixture
def room() -> Room:
    return THREE.copy()


@pytest.mark.parametrize("suite", CipherSuiteId)
def test_a_life_in_every_suite(suite: int) -> None:
    """Everything once: joins of all kinds, changes by value and by reference, with and without a path."""
    dave, erin = bundle("dave", suite), bundle("erin", suite)
    room = Room.of("alice", "bob", "carol", suite=suite)
    room.say("bob")
    room.propose_update("bob")
    room.propose("carol", Add(dave.key_package), public=True)
    effects = room.commit("alice", joining=[dave], options=CommitOptions(public=True))
    assert [change.kind for change in effects.changes] == [ChangeKind.UPDATED, ChangeKind.ADDED, ChangeKind.UPDATED]
    room.commit("dave")
    room.commit("bob", [Add(erin.key_package)], options=CommitOptions(path=False), joining=[erin])
    frank = bundle("frank", suite)
    joined = Group.external_commit(group_info_of(room["erin"]), frank.own_leaf, now=NOW)
    room.hear(joined.commit)
    room["frank"] = cast(Group, joined.staged.next)
    room.agree()
    room.propose("carol", SelfRemove())
    effects = room.commit("frank", [Remove(0)])
    assert [change.index for change in effects.removed] == [2, 0]
    assert set(room.groups) == {"bob", "dave", "erin", "frank"}
    for name in list(room.groups):
        room.say(name, b"from " + name.encode())
        room[name] = Group.restore(room[name].pieces().items())
        room.say(name, b"after a restart")
    room.commit("erin")


@FORMS
@pytest.mark.parametrize("path", [None, True], ids=["no path", "path"])
def test_12_1_1_add(room: Room, public: bool, path: bool | None) -> None:
    clients = [bundle(f"guest {number}") for number in range(3)]
    effects = room.commit(
        "bob", [Add(client.key_package) for client in clients], options=CommitOptions(public=public, path=path),
        joining=clients,
    )  # fmt: skip
    assert [change.index for change in effects.added] == [3, 4, 5]
    assert all(change.proposer == MemberSender(1) for change in effects.added)
    assert len(effects.updated) == bool(path)
    for client in clients:
        room.say(client.key_package.leaf_node.credential.identity.decode())  # type: ignore[union-attr]


@FORMS
def test_12_1_1_add_by_reference(room: Room, public: bool) -> None:
    dave = bundle("dave")
    room.propose("carol", Add(dave.key_package), public=public)
    effects = room.commit("bob", joining=[dave])
    assert effects.added[0].proposer == MemberSender(2)
    assert effects.committer == MemberSender(1)
    room.say("dave")


@FORMS
def test_12_1_2_update_by_reference(room: Room, public: bool) -> None:
    before = room["bob"].own_leaf
    room.propose_update("bob", public=public)
    effects = room.commit("carol")
    (change, own) = effects.updated
    assert (change.index, change.before, change.after) == (1, before, room["bob"].own_leaf)
    assert own.index == 2
    assert isinstance(room["bob"].own_leaf.source, UpdateSource)
    assert isinstance(room["carol"].own_leaf.source, CommitSource)
    assert room["bob"].own_leaf.encryption_key != before.encryption_key
    room.commit("bob")
    room.say("bob")


def test_12_1_2_an_update_may_change_the_signature_key_and_credential(room: Room) -> None:
    key = room["bob"].suite.generate_signature_key()
    room.propose_update("bob", OwnLeaf(BasicCredential(b"bob, anew"), key, capabilities()))
    room.commit("alice")
    assert room["alice"].tree.member(1).credential == BasicCredential(b"bob, anew")
    room.say("bob")
    room.commit("bob")


@FORMS
def test_12_4_a_commit_may_change_the_signature_key_and_credential(room: Room, public: bool) -> None:
    key = room["bob"].suite.generate_signature_key()
    leaf = OwnLeaf(BasicCredential(b"bob, anew"), key, capabilities())
    effects = room.commit("bob", options=CommitOptions(leaf=leaf, public=public))
    assert effects.updated[0].after == room["carol"].tree.member(1)
    room.say("bob")
    room.commit("bob")


@FORMS
@pytest.mark.parametrize("leaf", [0, 1, 2])
def test_12_1_3_remove(room: Room, public: bool, leaf: int) -> None:
    """Leaf 0 is a leaf like any other (mls-peers-lessons, users 9; openmls#1056)."""
    names = ["alice", "bob", "carol"]
    removed, committer = names[leaf], names[leaf - 1]
    gone = room[removed]
    effects = room.commit(committer, [Remove(leaf)], options=CommitOptions(public=public))
    assert [change.index for change in effects.removed] == [leaf]
    assert removed not in room.groups
    message, _ = room[committer].encrypt(b"without you")
    refused(gone, message, "epoch")
    # the blank leaf is the next one to be taken
    dave = bundle("dave")
    assert room.commit(committer, [Add(dave.key_package)], joining=[dave]).added[0].index == leaf
    room.say("dave")
    room.commit("dave")


@FORMS
def test_12_1_3_remove_by_reference(room: Room, public: bool) -> None:
    room.propose("alice", Remove(0), public=public)  # its own: another one has to commit it
    room.commit("bob")
    assert set(room.groups) == {"bob", "carol"}


def test_a_removed_member_is_told_and_cannot_go_on(room: Room) -> None:
    made = room["alice"].commit([Remove(1)], now=NOW)
    staged = room["bob"].process(made.commit, now=NOW)
    assert isinstance(staged, StagedCommit)
    assert staged.next is None
    with pytest.raises(UsageError):
        room["bob"].apply(staged, now=NOW)


@FORMS
@pytest.mark.parametrize("path", [None, True], ids=["no path", "path"])
def test_12_1_4_external_psk(room: Room, public: bool, path: bool | None) -> None:
    name = ExternalPSK(b"agreed beforehand")
    proposal = PreSharedKey(PreSharedKeyID(name, bytes(32)))
    dave = bundle("dave")
    options = CommitOptions(public=public, path=path)
    known = {name: b"value"}.get
    effects = room.commit("bob", [proposal, Add(dave.key_package)], options=options, joining=[dave], psks=known)
    assert effects.psks == (proposal.psk,)
    assert bool(effects.updated) is bool(path)


def test_12_1_4_psk_by_reference_and_several_in_the_order_of_the_commit(room: Room) -> None:
    values = {ExternalPSK(bytes([number])): bytes([number]) * 5 for number in range(3)}
    psks = [PreSharedKey(PreSharedKeyID(name, bytes([1]) * 32)) for name in values]
    room.propose("alice", psks[2])
    assert room.commit("bob", [psks[1], psks[0]], psks=values.get).psks == (psks[2].psk, psks[1].psk, psks[0].psk)


def test_8_4_another_value_makes_another_epoch(room: Room) -> None:
    name = ExternalPSK(b"x")
    made = room["bob"].commit([PreSharedKey(PreSharedKeyID(name, bytes(32)))], now=NOW, psks=lookup({name: b"1"}))
    refused(room["alice"], made.commit, "RFC 9420 6.1", psks=lookup({name: b"2"}))
    refused(room["alice"], made.commit, "RFC 9420 12.4.2")
    assert room["alice"].process(made.commit, now=NOW, psks=lookup({name: b"1"}))


def test_8_6_resumption_psk_of_an_epoch_before(room: Room) -> None:
    epoch = room["bob"].epoch
    room.commit("bob")
    proposal = PreSharedKey(PreSharedKeyID(ResumptionPSK(ResumptionPSKUsage.APPLICATION, b"a room", epoch), bytes(32)))
    room.commit("carol", [proposal])
    restored = Group.restore(room["alice"].pieces().items())
    assert restored.resumption_psk(epoch) == room["bob"].resumption_psk(epoch)
    assert restored.resumption_psk(epoch) is not None


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_8_6_resumption_psks_are_kept_for_a_limited_number_of_epochs(limit: int) -> None:
    parameters = replace(THREE["alice"].parameters, resumption_epochs=limit)
    alice = Group.create(bundle("alice"), b"g", parameters=parameters)
    for _ in range(5):
        alice = won(alice.commit(now=NOW))
    assert [epoch for epoch in range(5) if alice.resumption_psk(epoch) is not None] == list(range(5))[5 - limit :]
    assert sum(name[:1] == b"Y" for name in alice.pieces()) == limit


@FORMS
def test_12_1_7_group_context_extensions(public: bool) -> None:
    room = Room.of(*(bundle(name, supports=supporting(extensions=(0xF001,))) for name in ("alice", "bob")))
    extension = Extension(0xF001, b"content")
    effects = room.commit("bob", [GroupContextExtensions((extension,))], options=CommitOptions(public=public))
    assert effects.extensions is not None
    assert (effects.extensions.before, effects.extensions.after) == ((), (extension,))
    room.propose("alice", GroupContextExtensions(()), public=public)
    room.commit("bob")
    assert room["alice"].context.extensions == ()


def test_12_4_empty_commit_renews_the_committers_keys(room: Room) -> None:
    before = room["bob"].own_leaf
    effects = room.commit("bob")
    (change,) = effects.changes
    assert (change.kind, change.index, change.before) == (ChangeKind.UPDATED, 1, before)
    assert room["alice"].tree.member(1).encryption_key != before.encryption_key


def test_12_4_adds_only_need_no_path_and_leave_the_tree_to_grow(room: Room) -> None:
    dave = bundle("dave")
    made = room["bob"].commit([Add(dave.key_package)], now=NOW, options=PUBLIC)
    commit = body(made.commit).content.content
    assert isinstance(commit, Commit)
    assert commit.path is None


@pytest.mark.parametrize("proposal", [Remove(0), GroupContextExtensions(()), None], ids=["Remove", "GCE", "empty"])
def test_12_4_who_asks_for_no_path_where_one_is_needed_is_told(room: Room, proposal: Remove | None) -> None:
    with pytest.raises(UsageError):
        room["bob"].commit([] if proposal is None else [proposal], now=NOW, options=CommitOptions(path=False))


def test_a_new_leaf_without_a_path_is_an_error(room: Room) -> None:
    with pytest.raises(UsageError):
        room["bob"].commit(
            [Add(bundle("dave").key_package)],
            now=NOW,
            options=CommitOptions(path=False, leaf=room["bob"].own_leaf_parts()),
        )


def test_the_tree_beside_the_welcome(room: Room) -> None:
    dave = bundle("dave")
    made = room["bob"].commit([Add(dave.key_package)], now=NOW, options=CommitOptions(tree_in_welcome=False))
    group = won(made)
    with pytest.raises(InvalidError, match=r"12\.4\.3\.3"):
        Group.join(welcome_of(made), dave)
    for tree in (group.tree, group.tree.encode()):
        joined = Group.join(welcome_of(made), dave, tree=tree)
        assert joined.state.epoch_authenticator == group.epoch_authenticator
    with pytest.raises(InvalidError, match=r"12\.4\.3\.1"):
        Group.join(welcome_of(made), dave, tree=room["alice"].tree)


def test_6_authenticated_data_and_padding(room: Room) -> None:
    message, bob = room["bob"].encrypt(b"data", b"in clear, but bound")
    assert body(message).authenticated_data == b"in clear, but bound"
    received = room["alice"].process(message, now=NOW)
    assert isinstance(received, ReceivedMessage)
    assert (received.data, received.authenticated_data) == (b"data", b"in clear, but bound")
    changed = replace(body(message), authenticated_data=b"something else")
    refused(room["alice"], MLSMessage.wrap(changed), "decryption")
    sizes = {len(bob.encrypt(b"x" * size)[0]) for size in range(1, 40)}
    assert len(sizes) == 1  # sizes cannot be told
    assert len(bob.encrypt(b"x", padding=no_padding)[0]) < min(sizes)


def test_8_5_and_8_7_exporter_and_authenticator_differ_by_epoch_label_and_context(room: Room) -> None:
    bob = room["bob"]
    values = {bob.export(label, context, 32) for label in ("a", "b") for context in (b"", b"x")}
    values.add(bob.epoch_authenticator)
    room.commit("bob")
    values |= {room["bob"].export("a", b"", 32), room["bob"].epoch_authenticator}
    assert len(values) == 7


def test_9_2_a_message_is_read_once(room: Room) -> None:
    message, _ = room["bob"].encrypt(b"once")
    alice = heard(room["alice"], message)
    refused(alice, message, "RFC 9420 9.2")


def test_messages_out_of_order(room: Room) -> None:
    messages = []
    for number in range(6):
        message, room["bob"] = room["bob"].encrypt(bytes([number]))
        messages.append(message)
    alice = room["alice"]
    for number in (5, 0, 3, 1, 4, 2):
        received = alice.process(messages[number], now=NOW)
        assert isinstance(received, ReceivedMessage)
        assert received.data == bytes([number])
        alice = alice.apply(received, now=NOW)
        alice = Group.restore(alice.pieces().items())
    for message in messages:
        refused(alice, message, "RFC 9420 9.2")


def test_our_own_messages_are_not_for_us(room: Room) -> None:
    message, bob = room["bob"].encrypt(b"x")
    refused(bob, message, "our own", NotForUs)
    made = bob.commit(now=NOW, options=PUBLIC)
    refused(cast(Group, made.sent), made.commit, "our own", NotForUs)
    message, bob = bob.propose(Remove(0), now=NOW, public=True)
    # The echo of our own proposal only notes that the room has shown it.
    shown = {name: value for name, value in bob.pieces().items() if name[:1] != b"N"}
    assert heard(bob, message).pieces() == shown != bob.pieces()


def test_12_4_proposals_that_wait_keep_us_from_sending(room: Room) -> None:
    room.propose("alice", Remove(2))
    for name in ("alice", "bob"):
        with pytest.raises(UsageError, match=r"12\.4"):
            room[name].encrypt(b"too early")
    room.commit("bob")
    room.say("alice")


def test_two_things_processed_from_one_state(room: Room) -> None:
    """The second one would bring back a key that the first has used (9.2)."""
    first, bob = room["bob"].encrypt(b"1")
    second, bob = bob.encrypt(b"2")
    proposal, _ = bob.propose(Remove(0), now=NOW)
    alice = room["alice"]
    processed = [alice.process(message, now=NOW) for message in (first, second, proposal)]
    for one in processed:
        moved = alice.apply(one, now=NOW)
        for other in processed:
            with pytest.raises(UsageError):
                moved.apply(other, now=NOW)


def test_two_commits_processed_from_one_state(room: Room) -> None:
    made = [room[name].commit(now=NOW) for name in ("bob", "carol")]
    staged = [room["alice"].process(each.commit, now=NOW) for each in made]
    alice = room["alice"].apply(staged[0], now=NOW)
    with pytest.raises(UsageError):
        alice.apply(staged[1], now=NOW)
    refused(alice, made[1].commit, "epoch")


def test_a_commit_staged_on_another_branch_is_refused(room: Room) -> None:
    """Two histories may have the same group and epoch numbers."""
    one, other = room.copy(), room.copy()
    one.commit("bob")
    other.commit("carol")
    made = one["bob"].commit(now=NOW)
    staged = one["alice"].process(made.commit, now=NOW)
    with pytest.raises(UsageError):
        other["alice"].apply(staged, now=NOW)
    assert one["alice"].apply(staged, now=NOW)


@FORMS
def test_a_proposal_processed_in_another_epoch_is_not_kept(room: Room, public: bool) -> None:
    message, _ = room["bob"].propose(Remove(2), now=NOW, public=public)
    received = room["alice"].process(message, now=NOW)
    room.commit("carol")
    with pytest.raises(UsageError):
        room["alice"].apply(received, now=NOW)
    refused(room["alice"], message, "epoch")


def test_a_proposal_of_another_group_is_not_kept(room: Room) -> None:
    other = Room.of("x", "y")
    assert other["x"].epoch == room["alice"].epoch
    message, _ = other["x"].propose(Remove(1), now=NOW, public=True)
    other["y"] = replace(other["y"])
    received = other["y"].process(message, now=NOW)
    changed = replace(room["alice"].public.context, group_id=b"elsewhere")
    elsewhere = replace(room["alice"], public=replace(room["alice"].public, context=changed))
    with pytest.raises(UsageError):
        elsewhere.apply(received, now=NOW)


def test_14_making_a_commit_changes_nothing(room: Room) -> None:
    before = room["bob"].pieces()
    made = room["bob"].commit([Add(bundle("dave").key_package)], now=NOW)
    assert room["bob"].pieces() == before
    assert set(won(made).pieces()) >= {b"E", b"S"}
    assert made.sent.epoch == room["bob"].epoch
    room.commit("carol")  # another one has won
    room.say("bob")


def test_proposing_what_would_not_be_valid(room: Room) -> None:
    """Said before anything is sent (mls-peers-lessons, users 8; openmls#2167)."""
    bob = room["bob"]
    dave = bundle("dave")
    bad: dict[str, object] = {
        "RFC 9420 7.3": Add(bundle("bob", key=bob.signature_key).key_package),
        "RFC 9420 10.1": Add(bundle("dave", suite=3).key_package),
        "not valid any more": Add(bundle("dave", lifetime=_lifetime(-100, -50)).key_package),
        "RFC 9420 7.2": Add(bundle("dave", lifetime=_lifetime(0, 1000)).key_package),
        "leaf 7 is no member": Remove(7),
        "RFC 9420 12.1.4": PreSharedKey(PreSharedKeyID(ExternalPSK(b"x"), b"short")),
        "RFC 9420 12.1.5": ReInit(b"new", 0, 1, ()),
        "RFC 9420 12.1.6": ExternalInit(b""),
        "RFC 9420 12.1.7": GroupContextExtensions((Extension(0xF123, b""),)),
        "RFC 9420 12.2": UnknownProposal(0xF000, b""),
        "RFC 9420 13.4": GroupContextExtensions((Extension(0xF123, b""), Extension(0xF123, b""))),
    }
    for section, proposal in bad.items():
        with pytest.raises(InvalidError) as caught:
            bob.propose(proposal, now=NOW)  # type: ignore[arg-type]
        assert section in str(caught.value)
        with pytest.raises(InvalidError):
            bob.commit([proposal], now=NOW)  # type: ignore[list-item]
    with pytest.raises(UsageError):
        bob.propose(Update(bob.own_leaf), now=NOW)
    assert bob.propose(Add(dave.key_package), now=NOW)


def _lifetime(first: int, last: int) -> Lifetime:
    return Lifetime(NOW + first * DAY, NOW + last * DAY)


def test_12_2_a_client_is_brought_back_beside_its_removal(room: Room) -> None:
    """An Add of who is here already becomes valid by a Remove: by value, and by reference in any order."""
    again = bundle("bob", key=room["bob"].signature_key)
    effects = room.commit("alice", [Add(again.key_package), Remove(1)], joining=[again])
    assert [change.kind for change in effects.changes][:2] == [ChangeKind.REMOVED, ChangeKind.ADDED]
    room.say("bob")
    again = bundle("bob", key=room["bob"].signature_key)
    room.propose("carol", Remove(1))
    room.propose("carol", Add(again.key_package))
    room.commit("alice", joining=[again])
    room.say("bob")


def test_12_2_an_add_that_waits_for_a_removal_to_come_is_kept(room: Room) -> None:
    """Refused alone, it could not be found when the Commit refers to it."""
    again = bundle("bob", key=room["bob"].signature_key)
    external = _with_senders(room)
    message = external_proposal(room["alice"].public, ExternalSenderIndex(0), Add(again.key_package), external)
    room.hear(message)
    room.propose("carol", Remove(1))
    room.commit("alice", joining=[again])
    room.say("bob")


def _with_senders(room: Room) -> SignaturePrivateKey:
    """The key of an external sender that the group now has."""
    key = room["alice"].suite.generate_signature_key()
    senders = ExternalSenders((ExternalSender(key.public, BasicCredential(b"service")),))
    room.commit("alice", [GroupContextExtensions((senders.extension(),))])
    return key


def test_12_1_8_several_external_senders(room: Room) -> None:
    """`external_senders` is a list (mls-peers-lessons, users 9; ts-mls#476)."""
    suite = room["alice"].suite
    keys = [suite.generate_signature_key() for _ in range(3)]
    senders = ExternalSenders(
        tuple(ExternalSender(key.public, BasicCredential(bytes([n]))) for n, key in enumerate(keys))
    )
    room.commit("alice", [GroupContextExtensions((senders.extension(),))])
    assert ExternalSenders.found_in(room["carol"].context.extensions) == senders
    dave = bundle("dave")
    public = room["alice"].public
    wishes: tuple[AnyProposal, ...] = (Add(dave.key_package), Remove(2), GroupContextExtensions(()))
    for number, proposal in enumerate(wishes):
        room.hear(external_proposal(public, ExternalSenderIndex(number), proposal, keys[number]))
    wrong = external_proposal(public, ExternalSenderIndex(1), Remove(2), keys[0])
    refused(room["bob"], wrong, "signature")
    refused(room["bob"], external_proposal(public, ExternalSenderIndex(3), Remove(2), keys[0]), "RFC 9420 6.1")
    effects = room.commit("bob", joining=[dave])
    assert effects.added[0].proposer == ExternalSenderIndex(0)
    assert effects.removed[0].proposer == ExternalSenderIndex(1)
    assert effects.extensions is not None
    assert effects.extensions.proposer == ExternalSenderIndex(2)


@pytest.mark.parametrize(
    "proposal",
    [SelfRemove(), ExternalInit(b""), Update(THREE["bob"].own_leaf)],
    ids=["SelfRemove", "ExternalInit", "Update"],
)
def test_12_1_8_what_external_senders_may_not_propose(room: Room, proposal: object) -> None:
    key = _with_senders(room)
    message = external_proposal(room["alice"].public, ExternalSenderIndex(0), proposal, key)  # type: ignore[arg-type]
    refused(room["bob"], message, "RFC 9420 12.1.8")


def test_12_1_8_external_sender_in_a_group_without_any(room: Room) -> None:
    key = room["alice"].suite.generate_signature_key()
    refused(room["bob"], external_proposal(room["bob"].public, ExternalSenderIndex(0), Remove(0), key), "RFC 9420 6.1")


def test_12_1_8_a_new_member_proposes_itself(room: Room) -> None:
    dave = bundle("dave")
    message = external_proposal(
        room["alice"].public, NewMemberProposalSender(), Add(dave.key_package), dave.signature_key
    )
    room.hear(message)
    effects = room.commit("bob", joining=[dave])
    assert effects.added[0].proposer == NewMemberProposalSender()
    stranger = external_proposal(
        room["alice"].public, NewMemberProposalSender(), Add(bundle("erin").key_package), dave.signature_key
    )
    refused(room["bob"], stranger, "signature")
    refused(
        room["bob"],
        external_proposal(room["alice"].public, NewMemberProposalSender(), Remove(0), dave.signature_key),
        "RFC 9420 6.1",
    )


def test_selfremove_travels_openly_and_once_per_epoch(room: Room) -> None:
    message, bob = room["bob"].propose(SelfRemove(), now=NOW)
    assert not isinstance(body(message), PrivateMessage)
    with pytest.raises(UsageError):
        bob.propose(SelfRemove(), now=NOW)
    room["bob"] = bob
    room.hear(message, "bob")
    with pytest.raises(UsageError):
        room["alice"].encrypt(b"not before it is committed")
    room.commit("carol")
    assert set(room.groups) == {"alice", "carol"}


def test_selfremove_needs_the_support_of_all() -> None:
    room = Room.of("alice", bundle("bob", supports=supporting(proposals=())))
    with pytest.raises(InvalidError, match=r"12\.2"):
        room["alice"].propose(SelfRemove(), now=NOW)


def test_last_resort_key_package_serves_twice() -> None:
    """draft-ietf-mls-extensions; that the private keys are kept is the client's business."""
    dave = bundle("dave", last_resort=True)
    assert dave.last_resort
    assert not bundle("erin").last_resort
    for group_id in (b"one", b"two"):
        alice = Group.create(bundle("alice"), group_id)
        made = alice.commit([Add(dave.key_package)], now=NOW)
        joined = Group.join(welcome_of(made), dave).state
        assert joined.epoch_authenticator == won(made).epoch_authenticator


def test_11_1_required_capabilities(room: Room) -> None:
    required = RequiredCapabilities((0xF001,), (10,), (1,)).extension()
    able = supporting(extensions=(0xF001,))
    with pytest.raises(InvalidError, match=r"7\.3"):
        Group.create(bundle("alice"), b"g", extensions=(required,))
    strict = Room.of(bundle("alice", supports=able), bundle("bob", supports=able), extensions=(required,))
    with pytest.raises(InvalidError, match="extension of the group"):
        strict["bob"].commit([Add(bundle("dave").key_package)], now=NOW)
    carol = bundle("carol", supports=able)
    strict.commit("bob", [Add(carol.key_package)], joining=[carol])
    with pytest.raises(InvalidError, match=r"12\.1\.7"):
        room["alice"].commit([GroupContextExtensions((required,))], now=NOW)
    # the new extensions judge what else is in the list (12.3)
    dave = bundle("dave")
    strict.commit("alice", [GroupContextExtensions(()), Add(dave.key_package)], joining=[dave])


def test_5_3_3_application_id(room: Room) -> None:
    extension = ApplicationId(b"our name for it").extension()
    dave = bundle("dave", extensions=(extension,))
    room.commit("bob", [Add(dave.key_package)], joining=[dave])
    assert ApplicationId.found_in(room["alice"].tree.member(3).extensions) == ApplicationId(b"our name for it")
    room.commit("dave")
    assert room["alice"].tree.member(3).extensions == (extension, KNOWN_COMPONENTS)


def test_5_3_x509_and_unknown_credentials() -> None:
    chain = X509Credential((Certificate(b"leaf"), Certificate(b"issuer")))
    unknown = UnknownCredential(0xF00F, b"content")
    supports = supporting(credentials=(1, 2, 0xF00F))
    alice = bundle("alice", supports=supports)
    others = [bundle("x", credential=chain, supports=supports), bundle("y", credential=unknown, supports=supports)]
    room = Room.of(alice, *others)
    assert room["alice"].tree.member(1).credential == chain
    assert room["alice"].tree.member(2).credential == unknown
    with pytest.raises(InvalidError, match=r"7\.3"):  # Basic and X.509 only
        room["alice"].commit([Add(bundle("bob").key_package)], now=NOW)
    room.say("X509Credential")
    room.commit("UnknownCredential")


def test_13_5_grease_is_everywhere_it_may_be_and_means_nothing(room: Room) -> None:
    leaf = bundle("dave").key_package
    supported = leaf.leaf_node.capabilities
    for listed in (supported.cipher_suites, supported.extensions, supported.proposals, supported.credentials):
        assert GREASE & set(listed)
    assert GREASE & {extension.extension_type for extension in leaf.extensions}
    info = group_info_of(room["alice"])
    assert GREASE & {extension.extension_type for extension in info.extensions}


def test_13_5_what_everybody_greases_is_not_supported_by_everybody() -> None:
    value = min(GREASE)
    supports = replace(supporting(), extensions=(10, value), proposals=(10, value), credentials=(1, value))
    room = Room.of(bundle("alice", supports=supports), bundle("bob", supports=supports))
    with pytest.raises(InvalidError, match=r"12\.1\.7"):
        room["alice"].commit([GroupContextExtensions((Extension(value, b""),))], now=NOW)
    carol = bundle("carol", supports=supports, credential=UnknownCredential(value, b""))
    with pytest.raises(InvalidError, match=r"7\.3"):
        room["alice"].commit([Add(carol.key_package)], now=NOW)


def test_13_4_unknown_extensions_of_key_package_and_leaf_are_passed_over(room: Room) -> None:
    supports = supporting(extensions=(0xF111,))
    dave = bundle("dave", supports=supports, extensions=(Extension(0xF111, b"anything"),))
    room.commit("bob", [Add(dave.key_package)], joining=[dave])


def test_external_pub_has_its_length(room: Room) -> None:
    """mls-peers-lessons, users 9; ts-mls#449: external_pub is a vector, with its length."""
    info = group_info_of(room["alice"])
    (extension,) = [each for each in info.extensions if each.extension_type == ExtensionType.EXTERNAL_PUB]
    key = room["alice"].secrets.external_key_pair(room["alice"].suite).public
    assert extension.extension_data == bytes([len(key)]) + key
    with pytest.raises(MalformedError):
        ExternalPub.decode(bytes(32))  # a key by itself; one in 256 begins with what could be its length


def test_11_creation_checks_its_extensions() -> None:
    for bad, error in (
        ((Extension(0xF123, b""),), InvalidError),
        ((Extension(ExtensionType.EXTERNAL_SENDERS, b"\xff"),), MalformedError),
        ((Extension(ExtensionType.REQUIRED_CAPABILITIES, b"\xff"),), MalformedError),
        ((Extension(5, b"\0"), Extension(5, b"\0")), InvalidError),
    ):
        with pytest.raises(error):
            Group.create(bundle("alice"), b"g", extensions=bad)
    with pytest.raises(InvalidError):
        Group.create(bundle("alice"), bytes(256))


def test_12_4_2_a_group_that_was_reinitialized_is_closed(room: Room) -> None:
    room.commit("bob", [ReInit(b"new", 1, 1, ())])
    for name in room.groups:
        group = room[name]
        assert group.closed == ReInit(b"new", 1, 1, ())
        attempts: tuple[Callable[[], object], ...] = (
            partial(group.encrypt, b"x"),
            partial(group.commit, now=NOW),
            partial(group.propose, Remove(0), now=NOW),
            partial(group.propose_update, now=NOW),
        )
        for attempt in attempts:
            with pytest.raises(UsageError):
                attempt()
    # nor is anything received in it: whoever sends has not understood, or pretends not to have
    open_again = replace(room["bob"], closed=None)
    for message in (
        open_again.encrypt(b"x")[0],
        open_again.commit(now=NOW).commit,
        open_again.commit(now=NOW, options=PUBLIC).commit,
        open_again.propose(Remove(0), now=NOW)[0],
        open_again.propose(Remove(0), now=NOW, public=True)[0],
        Group.external_commit(group_info_of(open_again), bundle("dave").own_leaf, now=NOW).commit,
    ):
        refused(room["alice"], message, "RFC 9420 12.4.2", InvalidError)


def test_12_1_5_reinit_that_waits_gives_way_to_other_proposals(room: Room) -> None:
    room.propose("bob", ReInit(b"new", 1, 1, ()))
    with pytest.raises(UsageError):
        room["alice"].encrypt(b"x")
    room.propose("bob", Remove(2))
    effects = room.commit("alice")
    assert effects.reinit is None
    assert effects.removed
    room.propose("bob", ReInit(b"new", 1, 1, ()))
    assert room.commit("alice").reinit == ReInit(b"new", 1, 1, ())


def test_effects_tell_all(room: Room) -> None:
    dave = bundle("dave")
    room.propose("alice", Remove(2))
    effects = room.commit("bob", [Add(dave.key_package), GroupContextExtensions(())], joining=[dave])
    assert effects.committer == MemberSender(1)
    assert effects.committer_index == 1
    assert [(change.kind.name, change.index, change.proposer) for change in effects.changes] == [
        ("REMOVED", 2, MemberSender(0)),
        ("ADDED", 2, MemberSender(1)),
        ("UPDATED", 1, MemberSender(1)),
    ]
    assert type(effects).decode(effects.encode()) == effects


def test_processing_changes_nothing(room: Room) -> None:
    messages = [
        room["bob"].encrypt(b"x")[0],
        room["bob"].propose(Remove(2), now=NOW)[0],
        room["bob"].commit([Remove(2)], now=NOW).commit,
    ]
    before = room["alice"].pieces()
    kinds = [type(room["alice"].process(message, now=NOW)) for message in messages]
    assert kinds == [ReceivedMessage, ReceivedProposal, StagedCommit]
    assert room["alice"].pieces() == before


def test_nothing_secret_is_shown(room: Room) -> None:
    group = room["alice"]
    shown = f"{group!r} {group.secrets!r} {group.secret_tree!r} {group.private!r} {group.signature_key!r}"
    made = group.commit(now=NOW)
    shown += f"{made!r} {made.staged!r}"
    received = room["bob"].process(group.encrypt(b"plaintext")[0], now=NOW)
    shown += repr(received)
    assert "plaintext" not in shown
    for value in group.pieces().values():
        if len(value) >= 16:
            assert repr(value) not in shown
            assert value.hex() not in shown


def test_key_packages_say_whether_they_are_new() -> None:
    dave = bundle("dave")
    assert isinstance(dave.key_package.leaf_node.source, KeyPackageSource)
    assert dave.key_package.init_key != dave.key_package.leaf_node.encryption_key
    suite = CipherSuite.get(1)
    assert type(dave).decode(dave.encode()).reference == suite.key_package_ref(dave.key_package.encode())
