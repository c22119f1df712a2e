"""Messages that have been read and not been handed over to the application yet.

Once a message is read, its key is gone and our place in the room is behind it (RFC 9420 9.2): from then on this copy
is the only one.  It is written in the transaction of the step that reads the message, and deleted when the
application has taken it.  What is found here at a start has perhaps been taken, and is handed over again: each message
at least once, in the room's order.

Deleting costs no transaction of its own in a busy room: it is done with the next thing that is written for the room.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...identity import ClientIdentity
from ..events import MessageReceived
from ..member import Member
from .records import InboxRecord

__all__ = ["Inbox", "as_event", "as_record"]

_NUMBER = 8  # octets


class Inbox:
    """Places in the store's inbox space: the next one to use, and those that can be deleted.

    :ivar taken: of messages that have been handed over and are still in the store
    """

    def __init__(self, numbers: Iterable[bytes] = ()) -> None:
        self._last = max(numbers, default=bytes(_NUMBER))
        self.taken: frozenset[bytes] = frozenset()

    def copy(self) -> Inbox:
        """The same, which can be changed by itself."""
        same = Inbox()
        same._last, same.taken = self._last, self.taken
        return same

    def next_number(self) -> bytes:
        """The place for one more."""
        return (int.from_bytes(self._last, "big") + 1).to_bytes(_NUMBER, "big")

    def put(self, number: bytes) -> None:
        """It is in the store."""
        self._last = number

    def take(self, number: bytes) -> None:
        """It has been handed over."""
        self.taken |= {number}

    def forget(self, numbers: frozenset[bytes]) -> None:
        """They are not in the store any more."""
        self.taken -= numbers


def as_record(message: MessageReceived, now: int) -> InboxRecord:
    """What is stored of a message.

    :param now: seconds since the Unix epoch: a live message was received now
    """
    stamp = now if message.stamp is None else message.stamp
    return InboxRecord(
        sender=str(message.sender).encode(),
        leaf=message.sender.leaf_index,
        signature_key=message.sender.signature_key,
        epoch=message.epoch,
        claimed=(message.claimed or "").encode(),
        archive_id=message.archive_id.encode(),
        origin_id=(message.origin_id or "").encode(),
        occupant=message.occupant.encode(),
        clear=int(message.clear),
        removed=int(message.removed),
        stamp=max(0, int(stamp * 1000)),
        missing=message.missing,
        data=message.data,
    )


def as_event(room: str, number: bytes, record: InboxRecord) -> MessageReceived:
    """The message, to be handed over again."""
    account, _, device = record.sender.decode().partition("/")
    who = ClientIdentity(account, device)
    key = record.signature_key
    return MessageReceived(
        room=room,
        sender=Member(who.account, who.device, record.leaf, key),
        data=record.data,
        epoch=record.epoch,
        claimed=record.claimed.decode() or None,
        archive_id=record.archive_id.decode(),
        origin_id=record.origin_id.decode() or None,
        stamp=record.stamp / 1000,
        occupant=record.occupant.decode(),
        clear=bool(record.clear),
        removed=bool(record.removed),
        number=number,
        missing=record.missing,
        again=True,
    )
