"""Groups that continue groups: ReInit (RFC 9420 11.2) and branches (11.3), and what joiners check (12.4.3.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from slixmpp_mls.errors import InvalidError, UsageError
from slixmpp_mls.mls.group.commit_creation import CommitBundle, CommitOptions
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.registry import CipherSuiteId
from slixmpp_mls.mls.structures.extensions import Extension, ExternalSenders
from slixmpp_mls.mls.structures.proposals import Add, AnyProposal, PreSharedKey, ReInit
from slixmpp_mls.mls.structures.psk import PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle
from tests.mls.group_helpers import NOW, Room, bundle, refused, welcome_of, won

NAMES = ("alice", "bob", "carol")
EXTENSIONS = (ExternalSenders(()).extension(),)


def again(suite: int = 1, *names: str) -> dict[str, KeyPackageBundle]:
    return {name: bundle(name, suite) for name in names or NAMES}


def groups_of(group: Group):  # type: ignore[no-untyped-def]
    return {group.group_id: group}.get


def reinitialized(suite: int = 1, **fields: object) -> Room:
    room = Room.of(*NAMES)
    asked = replace(ReInit(b"new", 1, suite, EXTENSIONS), **fields)  # type: ignore[arg-type]
    effects = room.commit("alice", [asked])
    assert effects.reinit == asked
    return room


@pytest.mark.parametrize(("suite", "by"), [*((suite, "bob") for suite in CipherSuiteId), (1, "alice"), (2, "carol")])
def test_11_2_any_member_goes_on(suite: int, by: str) -> None:
    """Who has committed the ReInit may be gone (mls-peers-lessons, users 10: OpenMLS has no ReInit)."""
    room = reinitialized(suite)
    clients = again(suite)
    others = [client for name, client in clients.items() if name != by]
    made = room[by].draft_reinitialize(clients[by], [client.key_package for client in others], now=NOW).finish()
    new = Room({by: won(made)})
    for name, client in clients.items():
        if name != by:
            joined = Group.join(welcome_of(made), client, groups=groups_of(room[name]))
            assert joined.continues == ResumptionPSK(ResumptionPSKUsage.REINIT, b"a room", room[name].epoch)
            new[name] = cast(Group, joined.state)
    new.agree()
    group = new["carol"]
    assert (group.group_id, group.epoch, group.suite.id) == (b"new", 1, suite)
    assert group.context.extensions == EXTENSIONS
    for name in NAMES:
        new.say(name)
    new.commit("carol")


def test_11_2_the_old_groups_id_may_be_kept() -> None:
    room = reinitialized(group_id=b"a room")
    clients = again()
    made = (
        room["bob"]
        .draft_reinitialize(clients["bob"], [clients[name].key_package for name in ("alice", "carol")], now=NOW)
        .finish()
    )
    joined = Group.join(welcome_of(made), clients["alice"], groups=groups_of(room["alice"]))
    assert joined.state.epoch_authenticator == won(made).epoch_authenticator


def test_11_2_after_a_restart() -> None:
    room = reinitialized()
    clients = again()
    bob = Group.restore(room["bob"].pieces().items())
    assert bob.closed == room["bob"].closed
    made = bob.draft_reinitialize(
        clients["bob"], [clients[name].key_package for name in ("alice", "carol")], now=NOW
    ).finish()
    alice = Group.restore(room["alice"].pieces().items())
    assert Group.join(welcome_of(made), clients["alice"], groups=groups_of(alice))


def test_11_2_what_the_new_group_must_be_like() -> None:
    room, clients = reinitialized(), again()
    packages = {name: client.key_package for name, client in clients.items()}
    with pytest.raises(UsageError):
        Room.of(*NAMES)["bob"].draft_reinitialize(clients["bob"], [packages["alice"], packages["carol"]], now=NOW)
    with pytest.raises(InvalidError, match=r"11\.2"):
        room["bob"].draft_reinitialize(clients["bob"], [packages["alice"]], now=NOW)
    more = [packages["alice"], packages["carol"], bundle("dave").key_package]
    with pytest.raises(InvalidError, match=r"11\.2"):
        room["bob"].draft_reinitialize(clients["bob"], more, now=NOW)
    other = again(3)
    with pytest.raises(InvalidError, match=r"11\.2"):
        room["bob"].draft_reinitialize(other["bob"], [other["alice"].key_package, other["carol"].key_package], now=NOW)
    with pytest.raises(InvalidError, match=r"10\.1"):
        room["bob"].draft_reinitialize(clients["bob"], [packages["alice"], other["carol"].key_package], now=NOW)
    future = reinitialized(version=2)
    with pytest.raises(InvalidError, match=r"11\.2"):
        future["bob"].draft_reinitialize(clients["bob"], [packages["alice"], packages["carol"]], now=NOW)


def continued(
    old: Group,
    clients: dict[str, KeyPackageBundle],
    usage: ResumptionPSKUsage,
    *,
    group_id: bytes = b"new",
    extensions: tuple[Extension, ...] = EXTENSIONS,
    epoch: int | None = None,
    commits_before: int = 0,
) -> CommitBundle:
    """What a malicious Bob makes of it, all else being in order."""
    group = Group.create(clients["bob"], group_id, extensions=extensions)
    for _ in range(commits_before):
        group = won(group.commit(now=NOW))
    name = ResumptionPSK(usage, old.group_id, old.epoch if epoch is None else epoch)
    value = old.resumption_psk(name.psk_epoch)
    proposals: tuple[AnyProposal, ...] = (
        *(Add(client.key_package) for who, client in clients.items() if who != "bob"),
        PreSharedKey(PreSharedKeyID(name, bytes(old.suite.hash_length))),
    )
    options = CommitOptions(psk_usage=usage)
    return group.commit(proposals, now=NOW, options=options, psks=lambda name: value)


REINIT, BRANCH = ResumptionPSKUsage.REINIT, ResumptionPSKUsage.BRANCH


def test_12_4_3_1_reinit_as_it_was_asked_for() -> None:
    room, clients = reinitialized(), again()
    bob, known = room["bob"], groups_of(room["alice"])

    def attempt(made: CommitBundle) -> None:
        with pytest.raises(InvalidError, match=r"12\.4\.3\.1"):
            Group.join(welcome_of(made), clients["alice"], groups=known)

    assert Group.join(welcome_of(continued(bob, clients, REINIT)), clients["alice"], groups=known)
    attempt(continued(bob, clients, REINIT, group_id=b"another"))
    attempt(continued(bob, clients, REINIT, extensions=()))
    attempt(continued(bob, clients, REINIT, epoch=bob.epoch - 1))
    attempt(continued(bob, clients, REINIT, commits_before=1))
    attempt(continued(bob, {name: clients[name] for name in ("bob", "alice")}, REINIT))
    with pytest.raises(InvalidError, match=r"12\.4\.3\.1"):
        Group.join(welcome_of(continued(bob, clients, REINIT)), clients["alice"])  # a group that we are not in
    open_room = Room.of(*NAMES)
    made = continued(open_room["bob"], clients, REINIT)
    with pytest.raises(InvalidError, match="not reinitialized"):
        Group.join(welcome_of(made), clients["alice"], groups=groups_of(open_room["alice"]))


def test_12_4_3_1_another_cipher_suite_than_asked_for() -> None:
    room = reinitialized(3)
    clients = again(1)
    made = continued(room["bob"], clients, REINIT)
    with pytest.raises(InvalidError, match=r"12\.4\.3\.1"):
        Group.join(welcome_of(made), clients["alice"], groups=groups_of(room["alice"]))


def test_11_2_and_11_3_such_psks_have_no_other_place() -> None:
    """Neither in a Commit of ours nor in anybody's proposal; the first Commit of the new group is not processed."""
    room = Room.of(*NAMES)
    for usage in (REINIT, BRANCH):
        proposal = PreSharedKey(PreSharedKeyID(ResumptionPSK(usage, b"a room", 1), bytes(32)))
        with pytest.raises(InvalidError, match=r"12\.1\.4"):
            room["bob"].commit([proposal], now=NOW)
        with pytest.raises(InvalidError, match=r"12\.1\.4"):
            room["bob"].propose(proposal, now=NOW)
        made = room["bob"].commit([proposal], now=NOW, options=CommitOptions(psk_usage=usage))
        refused(room["alice"], made.commit, "12.1.4")


def test_11_3_branch() -> None:
    room, clients = Room.of(*NAMES), again(1, "alice", "bob")
    made = room["bob"].draft_branch(b"aside", clients["bob"], [clients["alice"].key_package], now=NOW).finish()
    joined = Group.join(welcome_of(made), clients["alice"], groups=groups_of(room["alice"]))
    assert joined.continues == ResumptionPSK(BRANCH, b"a room", room["bob"].epoch)
    aside = Room({"bob": won(made), "alice": cast(Group, joined.state)})
    aside.agree()
    aside.say("alice")
    assert aside["alice"].epoch == 1
    room.commit("carol")  # the old group goes on
    room.say("bob")


def test_11_3_what_a_branch_must_be_like() -> None:
    room, clients = Room.of(*NAMES), again()
    bob, known = room["bob"], groups_of(room["alice"])
    outside = bundle("dave")
    with pytest.raises(InvalidError, match=r"11\.3"):
        bob.draft_branch(b"aside", clients["bob"], [outside.key_package], now=NOW)
    with pytest.raises(InvalidError, match=r"11\.3"):
        bob.draft_branch(b"aside", outside, [clients["alice"].key_package], now=NOW)
    other = again(3)
    with pytest.raises(InvalidError, match=r"11\.3"):
        bob.draft_branch(b"aside", other["bob"], [other["alice"].key_package], now=NOW)

    def attempt(made: CommitBundle, client: KeyPackageBundle, section: str) -> None:
        with pytest.raises(InvalidError) as caught:
            Group.join(welcome_of(made), client, groups=known)
        assert section in str(caught.value)

    assert Group.join(welcome_of(continued(bob, clients, BRANCH)), clients["alice"], groups=known)
    attempt(continued(bob, {**clients, "dave": outside}, BRANCH), clients["alice"], "11.3")
    attempt(continued(bob, clients, BRANCH, commits_before=2), clients["alice"], "12.4.3.1")
    # of the old group's suite (here the PSK is as long by chance)
    attempt(continued(bob, other, BRANCH), other["alice"], "11.3")


def test_11_3_only_members_of_the_old_group_get_in() -> None:
    room, clients = Room.of(*NAMES), again()
    made = continued(room["bob"], {**clients, "dave": bundle("dave")}, BRANCH)
    with pytest.raises(InvalidError):
        Group.join(welcome_of(made), clients["alice"])
