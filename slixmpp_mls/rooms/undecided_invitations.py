"""Invitations that the application has not accepted, kept for a later decision.

``accept_invitation`` may answer no because nobody has been asked yet: a person decides later, and opens the room or the
conversation with the inviter then.  Until that, the place in the room's archive where the Welcome is to be looked for
must not be lost, and the account's archive is not read again for it (:mod:`.invitations`).

Nothing is done for such an invitation: its address is neither asked nor entered.  The number for each inviter and in
all is limited; the oldest one of the inviter, or of the server, with the most makes room.

In the store: space ``undecided_invitation``, key and value as in :mod:`.invitation_queue`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from ..identity.fair_share import displaced
from ..store import Store
from .invitation_queue import EXPIRY, InvitationRecord

__all__ = ["KEPT", "MAX_OF_ONE", "MAX_WAITING", "UndecidedInvitation", "UndecidedInvitations"]

SPACE = "undecided_invitation"
KEPT = 2 * EXPIRY
"""Seconds for which an undecided invitation is kept: no Welcome is looked for that is older (:mod:`.invitations`)."""

MAX_OF_ONE = 64
"""Undecided invitations of one inviter."""

MAX_WAITING = 256
"""Undecided invitations in all."""


@dataclass(frozen=True, slots=True)
class UndecidedInvitation:
    """An invitation that has not been accepted; an element of :attr:`MLS.invitations`.

    ``await mls.join(room, inviter=inviter)`` accepts it, and so does ``await mls.conversation(inviter)``.

    :ivar room: bare JID
    :ivar inviter: bare JID, vouched for by the servers only
    :ivar received: when it arrived
    """

    room: str
    inviter: str
    received: datetime


class UndecidedInvitations:
    """See the module.

    :param now: seconds since the Unix epoch
    """

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        self._store = store
        self._now = now

    def _records(self) -> dict[bytes, InvitationRecord]:
        now = self._now()
        with self._store.transaction() as transaction:
            records = {key: InvitationRecord.decode(value) for key, value in transaction.items(SPACE)}
        return {key: record for key, record in records.items() if abs(now - record.received) <= KEPT}

    @property
    def all(self) -> list[UndecidedInvitation]:
        """The oldest first.

        :raises StoreError: the store failed
        """
        records = sorted(self._records().items(), key=lambda item: item[1].received)
        return [
            UndecidedInvitation(_room(key), record.inviter.decode(), datetime.fromtimestamp(record.received, UTC))
            for key, record in records
        ]

    def add(self, room: str, inviter: str, after: str | None, group: bytes) -> None:
        """Keep an invitation.

        :param room: bare JID
        :param inviter: bare JID
        :param after: archive id from which to look for the Welcome
        :param group: id of the group there, as the inviter says
        :raises StoreError: nothing has changed
        """
        key, records = f"{room}/{inviter}".encode(), self._records()
        record = InvitationRecord(inviter.encode(), (after or "").encode(), self._now(), 0, 0, group)
        ordered = [*sorted(records.keys() - {key}, key=lambda each: records[each].received), key]
        inviters = [inviter if each == key else records[each].inviter.decode() for each in ordered]
        dropped = {ordered[position] for position in displaced(inviters, of_one=MAX_OF_ONE, in_all=MAX_WAITING)}
        with self._store.transaction() as transaction:
            for each, _ in list(transaction.items(SPACE)):
                if each not in records or each in dropped:  # expired, or it makes room
                    transaction.delete(SPACE, each)
            if key not in dropped:
                transaction.put(SPACE, key, record.encode())

    def take(self, *, room: str | None = None, inviter: str | None = None) -> list[tuple[str, InvitationRecord]]:
        """Remove the invitations to a room, or those of an inviter, because they are accepted.

        :returns: room and record of each, the oldest first
        :raises StoreError: nothing has changed
        """
        found = {
            key: record
            for key, record in self._records().items()
            if room in (None, _room(key)) and inviter in (None, record.inviter.decode())
        }
        if found:
            with self._store.transaction() as transaction:
                for key in found:
                    transaction.delete(SPACE, key)
        return [(_room(key), record) for key, record in sorted(found.items(), key=lambda item: item[1].received)]


def _room(key: bytes) -> str:
    return key.decode().partition("/")[0]
