"""The members of a room's group: their identities, the age of their keys, and the doubts about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ...errors import UsageError
from ...identity import ClientIdentity
from ...mls.schedule.secret_tree import RatchetKind
from ...mls.structures.leaf_node import LeafNode
from ...mls.tree.tree_math import LeafIndex
from ..device import Device
from ..member import Member
from ..storage import epoch_log, leaf_ages
from ..storage.doubts import NOT_ASKED, Doubt, Doubts
from ..storage.epoch_log import EpochRecord
from ..storage.leaf_ages import LeafAge, RenewalSettings
from .room_contents import Membership
from .room_state import RoomState

__all__ = ["Members", "sent_in_epoch"]

_JUDGED = 1024  # speakers without the ratchet tree of whom an answer is remembered
_JUDGED_FOR = 3600  # seconds
_UNKNOWN_FOR = 300  # seconds, if there is a doubt


@dataclass(frozen=True, slots=True)
class _Judged:
    """An answer of the Authentication Service about a leaf."""

    signature_key: bytes
    time: int
    doubt: Doubt | None


class Members:
    """The members of a room's group."""

    def __init__(self, device: Device, state: RoomState) -> None:
        self._device = device
        self._state = state
        self._judged: dict[ClientIdentity, _Judged] = {}

    def all(self) -> list[Member]:
        """The members, by leaf; without the ratchet tree those that were proved to us.

        :raises UsageError: we are not in the group
        :raises StoreError: the store failed
        """
        group, joined = self._state.require_speaking().group, self._state.record.joined
        since: dict[str, int] = {}
        with self._state.store.transaction() as transaction:
            for key, value in transaction.items(self._state.spaces.member):
                since[key.decode()] = int.from_bytes(value, "big")
            renewed = leaf_ages.renewed(transaction, self._state.spaces.renewed)
        members = (Member.of(index, leaf) for index, leaf in group.members())
        return [
            replace(
                member,
                since=since.get(str(member), joined),
                renewed=max(since.get(str(member), joined), renewed.get(str(member), 0)),
            )
            for member in members
        ]

    def renewed(self, client: ClientIdentity) -> int | None:
        """When a client renewed its leaf, or else came, by the room's clock: seconds since the Unix epoch.

        :returns: None if it was there before us, and has not renewed its leaf since
        :raises StoreError: the store failed
        """
        with self._state.store.transaction() as transaction:
            return leaf_ages.renewed_one(transaction, self._state.spaces.renewed, client)

    def epochs(self) -> list[EpochRecord]:
        """The last epochs and who began them, the oldest first; empty if nothing is known.

        :raises StoreError: the store failed
        """
        with self._state.store.transaction() as transaction:
            return epoch_log.read(transaction, self._state.spaces.epochs)

    def one(self, client: ClientIdentity) -> Member:
        """A member of the group.

        :raises UsageError: the client is not a member, or we are not
        """
        membership = self._state.require_member()
        index = membership.roster.leaf_of(client)
        if index is None:
            raise UsageError(f"{client} is not in the group in {self._state.room}")
        return Member.of(index, membership.group.tree.member(LeafIndex(index)))

    def has_key(self, client: ClientIdentity, signature_key: bytes) -> bool:
        """Whether this is a member with this signature key."""
        membership = self._state.membership
        index = None if membership is None else membership.roster.leaf_of(client)
        if membership is None or index is None:
            return False
        return membership.group.tree.member(LeafIndex(index)).signature_key == signature_key

    def renewal_due(self, settings: RenewalSettings, now: int) -> str | None:
        """The reason to renew our leaf's keys now; None if there is none.

        The reasons are those of :meth:`slixmpp_mls.client.storage.leaf_ages.LeafAge.why`.

        :param now: seconds since the Unix epoch
        :raises UsageError: we are not in the group
        :raises StoreError: the store failed
        """
        own, membership = self._device.identity, self._state.require_member()
        with self._state.store.transaction() as transaction:
            stored = transaction.get(self._state.spaces.renewed, str(own).encode())
        age = LeafAge.decode(stored, self._state.record.joined)
        spread = leaf_ages.fraction(membership.group.group_id, own)
        return age.why(settings, membership.policy.max_leaf_age, spread, now, sent_in_epoch(membership))

    @property
    def doubts(self) -> Doubts:
        """The members for whom the Authentication Service does not vouch; none if we are not in the group."""
        return Doubts() if self._state.membership is None else self._state.membership.doubts

    def doubt_about(self, client: ClientIdentity) -> Doubt | None:
        """What the Authentication Service has against a member; without the ratchet tree, against who has spoken."""
        if self._state.membership is not None:
            return self.doubts.get(client)
        if (partial := self._state.partial) is None or client == self._device.identity:
            return None
        judged = self._judged.get(client)
        if judged is not None:
            return judged.doubt
        if ClientIdentity.from_leaf(partial.inviter) == client:
            return None  # asked about when it let us in
        return Doubt(client, False, NOT_ASKED, "not asked about since the start", self._state.record.joined)

    def all_doubts(self) -> tuple[Doubt, ...]:
        """The doubts about all members; without the ratchet tree, about those who were proved to us."""
        partial = self._state.partial
        if partial is None:
            return tuple(self.doubts.values())
        found = (self.doubt_about(ClientIdentity.from_leaf(leaf)) for _, leaf in partial.group.members())
        return tuple(doubt for doubt in found if doubt is not None)

    def is_judged(self, leaf: LeafNode, now: int) -> bool:
        """Whether :meth:`note_judged` has been told of a leaf's key lately.

        :param now: seconds since the Unix epoch
        """
        judged = self._judged.get(ClientIdentity.from_leaf(leaf))
        if judged is None or judged.signature_key != leaf.signature_key:
            return False
        return abs(now - judged.time) < (_UNKNOWN_FOR if judged.doubt is not None else _JUDGED_FOR)

    def note_judged(self, leaf: LeafNode, doubts: Iterable[Doubt], now: int) -> None:
        """The Authentication Service has been asked about a leaf that was proved to us.  Only memory keeps it.

        :param doubts: about it
        :param now: seconds since the Unix epoch
        """
        client = ClientIdentity.from_leaf(leaf)
        self._judged.pop(client, None)
        self._judged[client] = _Judged(leaf.signature_key, now, next(iter(doubts), None))
        if len(self._judged) > _JUDGED:
            del self._judged[next(iter(self._judged))]

    def reconsider(self, asked: Iterable[ClientIdentity], answers: Iterable[Doubt]) -> None:
        """Update the doubts after the Authentication Service has been asked about members again.

        :param asked: members whose leaves have not changed since
        :param answers: doubts about those of them for which it does not vouch
        :raises StoreError: nothing has changed
        """
        doubts = self.doubts.reconsidered(asked, answers)
        if doubts != self.doubts and self._state.membership is not None:
            with self._state.change() as change:
                change.put_doubts(doubts)


def sent_in_epoch(membership: Membership) -> int:
    """The number of application messages that we have sent in the present epoch."""
    group = membership.group
    return group.secret_tree.used(group.own_index, RatchetKind.APPLICATION)
