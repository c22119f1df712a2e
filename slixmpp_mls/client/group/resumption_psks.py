"""Finds the other groups of a device, whose PSKs a room's group uses or which it continues (RFC 9420 8.4, 8.6, 11).

Groups are looked up in the store by group id.  Therefore the parts of different rooms do not depend on each other,
nothing has to be synchronized, and a restart changes nothing.

Rooms are read independently of each other.  A Commit or a Welcome may therefore name an epoch of another room's group
that we have not reached yet.  An :class:`OtherGroups` records that such an epoch was requested.  The reader of the room
waits until the other room reaches it, and looks again.  Such waits cannot form a cycle, because a PSK that was made
after an epoch had begun cannot be needed to begin that epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...mls.group import group_storage
from ...mls.group.group import Group
from ...mls.parameters import Parameters
from ...mls.structures.psk import ExternalPSK, ResumptionPSK
from ...store.interface import Store, Transaction
from ..storage.records import ROOMS, MembershipState, RoomRecord, Spaces

__all__ = ["Awaited", "OtherGroups"]


@dataclass(frozen=True, slots=True)
class Awaited:
    """An epoch that another room of ours has not reached."""

    room: str
    epoch: int


class OtherGroups:
    """One look at them.

    :param store: the device's
    :param room: for which room's group
    :ivar awaited: an epoch that was asked for and may still come; None if nothing was
    """

    def __init__(self, store: Store, parameters: Parameters, room: str) -> None:
        self._store = store
        self._parameters = parameters
        self._room = room
        self.awaited: Awaited | None = None
        self._rooms: dict[bytes, str] | None = None  # those in whose group we are, by its id

    def psk(self, name: ExternalPSK | ResumptionPSK) -> bytes | None:
        """The value of a PSK (a :data:`~slixmpp_mls.mls.group.group_state.PSKLookup`); None if we do not have it."""
        if not isinstance(name, ResumptionPSK):
            return None
        with self._store.transaction() as transaction:
            room = self._room_of(transaction, name.psk_group_id)
            if room is None:
                return None
            space = Spaces.of(room).group
            epoch, value = group_storage.resumption_psk(lambda key: transaction.get(space, key), name.psk_epoch)
        if epoch < name.psk_epoch and room != self._room:  # we would wait for ourselves
            self.awaited = Awaited(room, name.psk_epoch)
        return value

    def group(self, group_id: bytes) -> Group | None:
        """A group by its id (a :data:`~slixmpp_mls.mls.group.joining.GroupLookup`); None if we are not in it.

        The room's own group is no other one, unless it has ended: a Welcome may lead back into it.
        """
        with self._store.transaction() as transaction:
            room = self._room_of(transaction, group_id)
            if room is None:
                return None
            group = Group.restore(transaction.items(Spaces.of(room).group), self._parameters)
        return None if room == self._room and group.closed is None else group

    def _room_of(self, transaction: Transaction, group_id: bytes) -> str | None:
        """The room that has this group, of those in whose group we are.  A Welcome can name many."""
        if self._rooms is None:
            records = ((key.decode(), RoomRecord.decode(value)) for key, value in transaction.items(ROOMS))
            members = ((room, record) for room, record in records if record.state is MembershipState.MEMBER)
            self._rooms = {record.group_id: room for room, record in members}
        return self._rooms.get(group_id)
