"""The hostile side: powers, keys, and tools with which anything can be forged that needs no key of somebody else's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Flag, auto
from random import Random

from slixmpp_mls.client import Device
from slixmpp_mls.client.device import device as device_module
from slixmpp_mls.client.device.leaf_proofs import arriving, renewing
from slixmpp_mls.client.group.group_infos import group_infos_in
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.errors import MLSError, PeerError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite, SignaturePrivateKey
from slixmpp_mls.mls.group.commit_creation import CommitBundle, CommitOptions
from slixmpp_mls.mls.group.external_join import external_proposal
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.group.message_processing import ReceivedMessage
from slixmpp_mls.mls.group.staging import StagedCommit
from slixmpp_mls.mls.schedule.secret_tree import SecretTree
from slixmpp_mls.mls.structures.framing import MLSMessage, NewMemberProposalSender
from slixmpp_mls.mls.structures.leaf_node import LeafNode
from slixmpp_mls.mls.structures.proposals import Add, AnyProposal
from slixmpp_mls.mls.structures.welcome import GroupInfo
from slixmpp_mls.mls.tree.leaf_creation import Completion, KeyPackageBundle
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.policy import DeviceVoucher
from slixmpp_mls.stanza import elements
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import Participant

from .scene import MALLORY, SUITE, Scene

__all__ = ["Adversary", "Mask", "Power"]


class Power(Flag):
    """What an adversary can do; any combination."""

    OCCUPANT = auto()
    """Sits in the room: sends what it likes, reads what the room shows."""
    MEMBER = auto()
    """Is in the group, without any right, and runs software of its own."""
    ROOM = auto()
    """Is the room's server: order, delay, loss, names, the archive."""
    ACCOUNT = auto()
    """Is the server of Bob's account: what the directory has of him."""


@dataclass(slots=True)
class Mask:
    """A device of the adversary's that bears some name.

    :ivar group: the state that it has of the group, if it has any
    """

    device: Device
    group: Group | None = None

    @property
    def account(self) -> str:
        return self.device.identity.account


@dataclass(slots=True)
class Adversary:
    """Whoever is hostile.

    :ivar masks: its devices, and states that it has stolen
    :ivar forges_doors: whether a GroupInfo goes with its void Commits; somebody who comes in from outside may take it
        for the way into the group
    :ivar made: public encryption keys of leaves that it has made
    :ivar stolen: public encryption keys of leaves whose private part it has stolen
    :ivar kept_trees: by epoch authenticator, the secret tree with which its member came into the epoch: software that
        keeps what it should delete
    """

    scene: Scene
    powers: Power
    masks: list[Mask] = field(default_factory=list)
    forges_doors: bool = True
    made: set[bytes] = field(default_factory=set)
    stolen: set[bytes] = field(default_factory=set)
    kept_trees: dict[bytes, SecretTree] = field(default_factory=dict)

    # --- what it has ---------------------------------------------------------------------------

    @property
    def suite(self) -> CipherSuite:
        return CipherSuite.get(SUITE)

    @property
    def mallory(self) -> Participant | None:
        """Its member, as long as it is one, with all that the room shows it."""
        person = self.scene.mallory
        if person is None:
            return None
        with suppress(MLSError, AssertionError):
            for incoming in self.scene.world.room.archive(MALLORY):
                if incoming.archive_id > (person.group.cursor or ""):
                    person.take(incoming)
        if person.group.state is not MembershipState.MEMBER:
            return None
        group = person.group.mls
        self.made.add(group.own_leaf.encryption_key)
        self.kept_trees.setdefault(group.epoch_authenticator, group.secret_tree)
        return person

    def states(self) -> list[Group]:
        """All states of the group that it has: what it could read with them, it reads."""
        found = [mask.group for mask in self.masks if mask.group is not None]
        person = self.scene.mallory
        if person is not None and person.group.state is MembershipState.MEMBER:
            found.append(person.group.mls)
        return found

    def follow(self) -> None:
        """Take each state along by those Commits that honest members have accepted."""
        _ = self.mallory
        accepted = {authenticator for past in self.scene.history.values() for authenticator in past.values()}
        stanzas = self.scene.world.room.archive()
        for mask in self.masks:
            if mask.group is None:
                continue
            for incoming in stanzas:
                for payload in incoming.payloads:
                    if isinstance(payload, elements.Commit | elements.Proposal):
                        mask.group = self._advance(mask.group, payload, accepted)

    def _advance(self, group: Group, payload: elements.Commit | elements.Proposal, accepted: set[bytes]) -> Group:
        if (payload.group, payload.epoch) != (group.group_id, group.epoch):
            return group
        now = self.scene.world.now
        try:
            processed = group.process(payload.data, now=now)
            if isinstance(processed, StagedCommit):
                after = processed.next
                if after is None or after.epoch_authenticator not in accepted:
                    return group
            return group.apply(processed, now=now)
        except (MLSError, AssertionError):
            return group

    def reads(self, group: Group, message: bytes) -> bytes | None:
        """What a state makes of a message."""
        try:
            read = group.process(message, now=self.scene.world.now)
        except (MLSError, AssertionError):
            return None
        return read.data if isinstance(read, ReceivedMessage) else None

    def view(self) -> Group | None:
        """The group in some state that the adversary has, to look at."""
        mallory = self.mallory
        if mallory is not None:
            return mallory.group.mls
        return next((mask.group for mask in self.masks if mask.group is not None), None)

    def door(self) -> GroupInfo | None:
        """The latest way in: what the room has kept, or what its own member signs.

        Somebody has told it the key of GroupInfos: what that protects is the roster, not the group.
        """
        mallory = self.mallory
        if mallory is not None:
            body = MLSMessage.decode(mallory.group.mls.group_info()).body
            assert isinstance(body, GroupInfo)
            return body
        shown = ((each.archive_id, each.payloads) for each in self.scene.world.room.archive(MALLORY))
        for _, door in reversed(group_infos_in(shown)):
            for person in self.scene.people:
                with suppress(PeerError):
                    body = MLSMessage.decode(person.group.external_commits.open(door)).body
                    if isinstance(body, GroupInfo):
                        return body
        return None

    # --- what it makes -------------------------------------------------------------------------

    def mask(self, account: str, device: str | None = None) -> Mask:
        """A device with a name of one's choice, and keys of its own."""
        store = MemoryStore(account)
        if device is not None:
            with store.transaction() as transaction:
                transaction.put(device_module._DEVICE, b"id", device.encode())
        mask = Mask(Device(store, parameters=self.scene.world.parameters, random=self.scene.world.random))
        self.masks.append(mask)
        return mask

    def external_commit(
        self,
        mask: Mask,
        door: GroupInfo,
        *,
        replaces: int | None = None,
        complete: Completion | None = None,
    ) -> CommitBundle | None:
        """An external Commit, without asking whether anybody will accept it; the mask has the state behind it."""
        own = replace(mask.device.own_leaf(self.suite), complete=self._noting(complete or renewing(self.suite)))
        try:
            bundle = Group.external_commit(
                door,
                own,
                now=self.scene.world.now,
                replaces=None if replaces is None else LeafIndex(replaces),
                parameters=self.scene.world.parameters,
                with_group_info=True,
                random=self.scene.world.random,
            )
        except (MLSError, ValueError):
            return None  # RFC 9420 forbids it: nobody would look at it
        assert isinstance(bundle.staged.next, Group)
        mask.group = bundle.staged.next
        return bundle

    def key_package(self, mask: Mask, complete: Completion | None = None) -> KeyPackageBundle:
        return mask.device.key_packages.make(
            self.suite, self.scene.world.now, complete=self._noting(complete or renewing(self.suite))
        )

    def asking(
        self,
        mask: Mask,
        group_id: bytes,
        epoch: int,
        complete: Completion | None = None,
    ) -> elements.Proposal:
        """A new-member Add (RFC 9420 12.1.8)."""
        bundle = self.key_package(mask, complete)
        message = external_proposal(
            self.suite,
            group_id,
            epoch,
            NewMemberProposalSender(),
            Add(bundle.key_package),
            mask.device.signature_key(self.suite),
        )
        return elements.Proposal(group_id, epoch, message)

    def arriving(
        self,
        *,
        keys: Sequence[SignaturePrivateKey] = (),
        vouchers: Sequence[DeviceVoucher] = (),
        newcomer: bool = False,
    ) -> Completion:
        group_id = self.scene.people[0].group.room_state.record.group_id
        return arriving(self.suite, group_id, keys=keys, vouchers=vouchers, newcomer=newcomer)

    def commit(self, group: Group, proposals: Sequence[AnyProposal]) -> CommitBundle | None:
        """A Commit that asks for no right."""
        options = CommitOptions(complete=self._noting(renewing(self.suite)))
        try:
            draft = group.draft_commit(
                proposals, now=self.scene.world.now, by_reference=(), options=options, random=self.scene.world.random
            )
            return group.finish_commit(draft, random=self.scene.world.random)
        except (MLSError, ValueError):
            return None

    def _noting(self, complete: Completion) -> Completion:
        def noting(leaf: LeafNode, key: object) -> LeafNode:
            self.made.add(leaf.encryption_key)
            return complete(leaf, key)  # type: ignore[arg-type]

        return noting

    # --- what it sends -------------------------------------------------------------------------

    def post(self, *payloads: elements.RoomElement, choice: Random | None = None) -> None:
        """Into the room.  A room's server can say that it is from anybody."""
        claimed: str | None = MALLORY
        if self.powers & Power.ROOM and choice is not None:
            claimed = choice.choice([MALLORY, None, *(person.account for person in self.scene.people)])
        self.scene.world.room.post(payloads, claimed)

    def post_commit(self, bundle: CommitBundle, group_id: bytes, epoch: int, choice: Random | None = None) -> None:
        payloads: list[elements.RoomElement] = [elements.Commit(group_id, epoch, bundle.commit)]
        if bundle.welcome is not None:
            payloads.append(elements.Welcome(group_id, epoch + 1, bundle.welcome))
        if bundle.group_info is not None and self.forges_doors:
            payloads.append(elements.GroupInfo(group_id, epoch + 1, bundle.group_info))
        self.post(*payloads, choice=choice)
