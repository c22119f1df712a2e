"""Random histories: groups of 2 to 40 members through whatever may happen, and what must hold after each step.

Members are on devices of their own: each hears messages in its own order, keeps its state on a disk that
is told changes only, and may be restarted from it at any time.  Commits race and all but one lose.

After each step:

- all members agree on epoch, tree hash, epoch authenticator and membership, and who is a member
  is what a plain model says;
- whoever was removed can read nothing of what is said afterwards;
- no AEAD key and nonce have been used for two plaintexts;
- what the disks hold is the whole state, and nothing that was deleted from it.

``MLS_HISTORIES`` sets how many histories are tried (15), ``pytest --hypothesis-seed`` which.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast
from unittest import TestCase

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from slixmpp_mls.errors import PeerError, WrongEpoch
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.commit_creation import CommitOptions
from slixmpp_mls.mls.group.group import Group, external_proposal
from slixmpp_mls.mls.group.message_processing import ReceivedMessage
from slixmpp_mls.mls.group.staging import StagedCommit
from slixmpp_mls.mls.registry import CipherSuiteId
from slixmpp_mls.mls.structures.credential import BasicCredential
from slixmpp_mls.mls.structures.extensions import ExternalSenders
from slixmpp_mls.mls.structures.framing import MemberSender, NewMemberProposalSender, PublicMessage
from slixmpp_mls.mls.structures.proposals import (
    Add,
    AnyProposal,
    GroupContextExtensions,
    PreSharedKey,
    Remove,
    SelfRemove,
)
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from slixmpp_mls.mls.tree import ratchet_tree, stored_nodes
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle
from tests.mls.group_helpers import NOW, body, bundle, group_info_of, lookup, welcome_of

MOST = 40
HISTORIES = int(os.environ.get("MLS_HISTORIES", "15"))
PSKS: dict[ExternalPSK | ResumptionPSK, bytes] = {
    ExternalPSK(bytes([number])): bytes([number]) * 8 for number in range(4)
}


class Sealed:
    """Every AEAD key and nonce that was used, to be used once."""

    def __init__(self) -> None:
        self.used: set[tuple[bytes, bytes]] = set()
        self.original = CipherSuite.aead_seal

    def __enter__(self) -> Sealed:
        def seal(suite: CipherSuite, key: bytes, nonce: bytes, aad: bytes, plaintext: Any) -> bytes:
            assert (key, nonce) not in self.used, "an AEAD key and nonce are used twice"
            self.used.add((key, nonce))
            return self.original(suite, key, nonce, aad, plaintext)

        CipherSuite.aead_seal = seal  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *_: object) -> None:
        CipherSuite.aead_seal = self.original  # type: ignore[method-assign]


class Device:
    """A member with its disk."""

    def __init__(self, name: str, group: Group) -> None:
        self.name = name
        self.client: KeyPackageBundle | None = None
        self.pieces = group.pieces()
        self.group = group.stored()
        self.waiting: list[bytes] = []  # application messages that it has not heard yet

    def move(self, group: Group) -> None:
        """To the next state, which is written first."""
        for name, value in group.changes_since(self.group).items():
            if value is None:
                self.pieces.pop(name, None)
            else:
                self.pieces[name] = value
        self.group = group.stored()

    def restart(self) -> None:
        self.group = Group.restore(self.pieces.items(), self.group.parameters).stored()

    def hear(self, message: bytes) -> None:
        self.move(self.group.apply(self.group.process(message, now=NOW, psks=lookup(PSKS)), now=NOW))


class Histories(RuleBasedStateMachine):
    """The group, and what may happen to it."""

    suite = 1

    def __init__(self) -> None:
        super().__init__()
        self.sealed = Sealed().__enter__()
        self.devices: list[Device] = []
        self.gone: list[Group] = []
        self.counter = 0
        self.model: list[str] = []  # who is a member, in the order of joining
        self.clients: dict[bytes, KeyPackageBundle] = {}  # by their leaves' encryption keys

    def teardown(self) -> None:
        self.sealed.__exit__()

    def client(self) -> KeyPackageBundle:
        self.counter += 1
        client = bundle(f"client {self.counter}", self.suite)
        self.clients[client.key_package.leaf_node.encryption_key] = client
        return client

    def some(self, number: int) -> Device:
        return self.devices[number % len(self.devices)]

    def others(self, device: Device) -> list[Device]:
        return [each for each in self.devices if each is not device]

    @initialize(count=st.sampled_from([1, 2, 4, 9, 29]), path=st.booleans())
    def begin(self, count: int, path: bool) -> None:
        first = self.client()
        device = Device(_name(first), Group.create(first, b"a history"))
        self.devices, self.model = [device], [device.name]
        self.commit_and_settle(device, [], [self.client() for _ in range(count)], path)

    # --- commits -----------------------------------------------------------------------------

    def commit_and_settle(
        self, device: Device, proposals: list[AnyProposal], joining: list[KeyPackageBundle], path: bool | None
    ) -> None:
        adds = [Add(client.key_package) for client in joining]
        options = CommitOptions(path=True if path else None, public=self.counter % 2 == 0)
        made = device.group.commit([*proposals, *adds], now=NOW, options=options, psks=lookup(PSKS))
        device.move(cast(Group, made.sent))
        self.settle(device, made)
        assert all(_name(client) in self.model for client in joining)

    def settle(self, device: Device, made: Any) -> None:
        """A Commit wins: everybody hears of it, and whoever it adds, joins."""
        removed = {change.index for change in made.staged.effects.removed}
        left = [each for each in self.devices if each.group.own_index in removed]
        for each in self.others(device):
            staged = each.group.process(made.commit, now=NOW, psks=lookup(PSKS))
            assert isinstance(staged, StagedCommit)
            assert staged.effects == made.staged.effects
            assert (staged.next is None) == (each in left)
            if staged.next is not None:
                each.move(each.group.apply(staged, now=NOW))
        device.move(device.group.apply(made.staged, now=NOW))
        self.gone = [*self.gone, *(each.group for each in left)][-5:]
        self.devices = [each for each in self.devices if each not in left]
        self.model = [name for name in self.model if name not in {each.name for each in left}]
        for change in made.staged.effects.added:
            client = self.clients.pop(change.after.encryption_key)
            state = Group.join(welcome_of(made), client, psks=lookup(PSKS)).state
            self.devices.append(Device(_name(client), cast(Group, state)))
            self.model.append(_name(client))

    @rule(who=st.integers(0, 99), path=st.booleans())
    def renews(self, who: int, path: bool) -> None:
        self.commit_and_settle(self.some(who), [], [], path)

    @rule(who=st.integers(0, 99), count=st.integers(1, 9), path=st.booleans())
    def adds(self, who: int, count: int, path: bool) -> None:
        count = min(count, MOST - len(self.devices))
        self.commit_and_settle(self.some(who), [], [self.client() for _ in range(count)], path)

    @precondition(lambda self: len(self.devices) > 2)
    @rule(who=st.integers(0, 99), whom=st.lists(st.integers(0, 99), min_size=1, max_size=9), adding=st.booleans())
    def removes(self, who: int, whom: list[int], adding: bool) -> None:
        device = self.some(who)
        leaves = sorted({self.some(number).group.own_index for number in whom} - {device.group.own_index})
        joining = [self.client()] if adding else []
        self.commit_and_settle(device, [Remove(leaf) for leaf in leaves], joining, None)

    @rule(who=st.integers(0, 99), numbers=st.sets(st.integers(0, 3), min_size=1), past=st.booleans())
    def injects_psks(self, who: int, numbers: set[int], past: bool) -> None:
        device = self.some(who)
        names: list[Any] = [ExternalPSK(bytes([number])) for number in numbers]
        group = device.group
        joining = any(isinstance(sent.proposal, Add) for sent in group.pending_proposals)  # who has no past here
        if past and not joining and all(each.group.resumption_psk(group.epoch - 1) for each in self.devices):
            names.append(ResumptionPSK(ResumptionPSKUsage.APPLICATION, group.group_id, group.epoch - 1))
        proposals: list[AnyProposal] = [PreSharedKey(PreSharedKeyID(name, os.urandom(32))) for name in names]
        self.commit_and_settle(device, proposals, [], None)

    @rule(who=st.integers(0, 99), there=st.booleans())
    def changes_extensions(self, who: int, there: bool) -> None:
        extensions = (ExternalSenders(()).extension(),) if there else ()
        self.commit_and_settle(self.some(who), [GroupContextExtensions(extensions)], [], None)

    @rule(racers=st.lists(st.integers(0, 99), min_size=2, max_size=4), winner=st.integers(0, 3), lazy=st.booleans())
    def races(self, racers: list[int], winner: int, lazy: bool) -> None:
        """Several commit at once; those that lose keep waiting Commits on disk, and drop them."""
        made = []
        for number in dict.fromkeys(number % len(self.devices) for number in racers):
            device = self.devices[number]
            joining = [] if lazy or len(self.devices) >= MOST else [self.client()]
            adds = [Add(client.key_package) for client in joining]
            bundle_ = device.group.commit(adds, now=NOW, psks=lookup(PSKS))
            waiting = device.group.staged_pieces(bundle_.staged)
            device.move(cast(Group, bundle_.sent))
            device.restart()
            made.append((device, bundle_, waiting))
        device, bundle_, waiting = made[winner % len(made)]
        restored = device.group.restore_staged(waiting)
        assert restored.effects == bundle_.staged.effects
        assert restored.next is not None
        assert cast(Group, restored.next).pieces() == cast(Group, bundle_.staged.next).pieces()
        self.settle(device, bundle_)
        for _, lost, _ in made:
            for each in self.devices[:3]:
                _refuses(each.group, lost.commit)

    @rule(who=st.integers(0, 99))
    def joins_from_outside(self, who: int) -> None:
        if len(self.devices) < MOST:
            self.enter(self.client(), self.some(who), None)

    @precondition(lambda self: len(self.devices) > 1)
    @rule(who=st.integers(0, 99), lost=st.integers(0, 99))
    def comes_back(self, who: int, lost: int) -> None:
        old = self.some(lost)
        helper = self.some(who)
        if helper is old:
            return
        client = bundle(old.name, self.suite, key=old.group.signature_key)
        self.enter(client, helper, old)

    def enter(self, client: KeyPackageBundle, helper: Device, old: Device | None) -> None:
        """By an external Commit, which takes along those who want to leave."""
        info = group_info_of(helper.group)
        replaces = None if old is None else old.group.own_index
        leaving = {
            sent.sender.leaf_index: PublicMessage(sent.content.content, sent.content.signature, None, b"not looked at")
            for sent in helper.group.pending_proposals
            if isinstance(sent.proposal, SelfRemove) and sent.content is not None
            and isinstance(sent.sender, MemberSender) and sent.sender.leaf_index != replaces
        }  # fmt: skip
        made = Group.external_commit(info, client.own_leaf, now=NOW, replaces=replaces, leaving=list(leaving.values()))
        device = Device(_name(client), cast(Group, made.staged.next))
        left = [each for each in self.devices if each is old or each.group.own_index in leaving]
        for each in left:
            assert cast(StagedCommit, each.group.process(made.commit, now=NOW)).next is None
            self.devices.remove(each)
            self.model.remove(each.name)
        for each in self.devices:
            each.hear(made.commit)
        self.gone = [*self.gone, *(each.group for each in left)][-5:]
        self.devices.append(device)
        self.model.append(device.name)

    # --- proposals ---------------------------------------------------------------------------

    def propose(self, device: Device, make: Callable[[], tuple[bytes, Group]]) -> None:
        group = device.group
        own = [sent for sent in group.pending_proposals if sent.sender == MemberSender(group.own_index)]
        if len(own) == group.parameters.member_proposal_limit:  # no member keeps more of one other
            return
        message, group = make()
        device.move(group)
        for each in self.others(device):
            each.hear(message)

    @rule(who=st.integers(0, 99), public=st.booleans())
    def proposes_update(self, who: int, public: bool) -> None:
        device = self.some(who)
        self.propose(device, lambda: device.group.propose_update(now=NOW, public=public))

    @rule(who=st.integers(0, 99), whom=st.integers(0, 99), public=st.booleans())
    def proposes_removal(self, who: int, whom: int, public: bool) -> None:
        device = self.some(who)
        removal = Remove(self.some(whom).group.own_index)
        self.propose(device, lambda: device.group.propose(removal, now=NOW, public=public))

    @precondition(lambda self: len(self.devices) > 3)
    @rule(who=st.integers(0, 99))
    def wants_to_leave(self, who: int) -> None:
        device = self.some(who)
        waiting = [sent.sender for sent in device.group.pending_proposals if isinstance(sent.proposal, SelfRemove)]
        if MemberSender(device.group.own_index) not in waiting and len(waiting) < len(self.devices) - 2:
            self.propose(device, lambda: device.group.propose(SelfRemove(), now=NOW))

    @rule()
    def asks_to_join(self) -> None:
        if len(self.devices) < MOST:
            client = self.client()
            public = self.devices[0].group.public
            proposal = Add(client.key_package)
            message = external_proposal(public, NewMemberProposalSender(), proposal, client.signature_key)
            for each in self.devices:
                each.hear(message)

    # --- messages ----------------------------------------------------------------------------

    @rule(who=st.integers(0, 99), count=st.integers(1, 5))
    def says(self, who: int, count: int) -> None:
        """Others hear it later."""
        device = self.some(who)
        if device.group.proposals_to_commit():
            return
        for _ in range(count):
            message, group = device.group.encrypt(f"{device.name} in {device.group.epoch}".encode())
            device.move(group)
            for each in self.others(device):
                each.waiting.append(message)
            for former in self.gone:
                _refuses(former, message)

    @rule(who=st.integers(0, 99), order=st.randoms(use_true_random=False))
    def hears(self, who: int, order: Any) -> None:
        device = self.some(who)
        order.shuffle(device.waiting)
        heard, device.waiting = device.waiting[:12], device.waiting[12:]
        for message in heard:
            try:
                received = device.group.process(message, now=NOW)
            except WrongEpoch:  # too old by now
                assert body(message).epoch < device.group.epoch - device.group.parameters.past_epochs
                continue
            assert isinstance(received, ReceivedMessage)
            credential = cast(Any, received.leaf.credential)
            assert received.data == credential.identity + f" in {received.epoch}".encode()
            device.move(device.group.apply(received, now=NOW))
            _refuses(device.group, message)

    @rule(who=st.integers(0, 99))
    def restarts(self, who: int) -> None:
        self.some(who).restart()

    # --- what must hold ----------------------------------------------------------------------

    @invariant()
    def all_agree(self) -> None:
        groups = [device.group for device in self.devices]
        if groups:
            assert len({group.epoch for group in groups}) == 1
            assert len({group.tree.tree_hash() for group in groups}) == 1
            assert len({group.epoch_authenticator for group in groups}) == 1
            assert len({group.export("x", b"", 16) for group in groups}) == 1
            assert len({group.public.proposal_order for group in groups}) == 1
            members = sorted(cast(Any, leaf.credential).identity.decode() for _, leaf in groups[0].members())
            assert members == sorted(self.model)
            assert members == sorted(device.name for device in self.devices)

    @invariant()
    def disks_hold_the_state(self) -> None:
        for device in self.devices[:2] + self.devices[-2:]:
            assert device.pieces == device.group.pieces()
            epochs = {int.from_bytes(name[1:9], "big") for name in device.pieces if name[:1] == b"R"}
            assert epochs == {device.group.epoch, *(past.epoch for past in device.group.past)}

    @invariant()
    def who_has_left_is_out(self) -> None:
        """No later path is encrypted to a key that a former member has."""
        for former in self.gone:
            tree = self.devices[0].group.tree
            assert all(tree.node_by_encryption_key(key.public) is None for key in former.private.keys.values())


def _name(client: KeyPackageBundle) -> str:
    credential = client.key_package.leaf_node.credential
    assert isinstance(credential, BasicCredential)
    return credential.identity.decode()


def _refuses(group: Group, message: bytes) -> None:
    before = group.pieces()
    try:
        group.process(message, now=NOW, psks=lookup(PSKS))
    except PeerError:
        assert group.pieces() == before
    else:
        raise AssertionError("accepted")


class PostQuantumHistories(Histories):
    """The same where KEM outputs are not public keys and paths are long."""

    suite = CipherSuiteId.MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519


class CompactHistories(Histories):
    """The same where trees become compact as large ones do, each member's at other moments than the others'."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(ratchet_tree, "_LEAST_COMPACT", 0)
        self.patch.setattr(stored_nodes, "PIECE", 2)
        self.patch.setattr(stored_nodes, "_FEWEST", 1)

    def teardown(self) -> None:
        self.patch.undo()
        super().teardown()

    @invariant()
    def trees_are_compact(self) -> None:
        for device in self.devices:  # in each piece of four leaves there are fewer ordinary nodes than members
            assert device.group.tree._root.loose < 5 * device.group.tree.leaf_count // 4 + 1


def _case(machine: type[Histories], histories: int) -> type[TestCase]:
    case = machine.TestCase
    case.pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 + 10 * histories)]  # type: ignore[attr-defined]
    case.settings = settings(
        max_examples=histories,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    return case


TestHistories = _case(Histories, HISTORIES)
TestCompactHistories = _case(CompactHistories, max(1, HISTORIES // 3))
TestPostQuantumHistories = _case(PostQuantumHistories, max(1, HISTORIES // 3))
