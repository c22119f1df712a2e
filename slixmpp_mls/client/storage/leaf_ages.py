"""Tracks the age of the keys in a group's leaves, and determines when ours are to be renewed (RFC 9750 7, 8.2.2).

The age of a leaf's keys counts from the last Commit that renewed the leaf (by its member's path or Update), by the
room's clock, or else from the member's arrival.  For a member that joined before us it counts from our own arrival,
because nothing earlier is known.  When a member arrived is kept by the room's clock, too: a request from before that
does not have its leaf replaced (:mod:`slixmpp_mls.rooms.engine.readmission`).

Our own leaf is *due*

- by **age**: 7 days after its keys were generated, which may be long before we joined if they come from a KeyPackage;
  if the group's policy has a `max_leaf_age`, after three quarters of it at the latest;
- by **use**: after 1,000 messages of ours, counted across the epochs that others have begun meanwhile;
- soon, if we joined by a KeyPackage of last resort (RFC 9750 5.1): it may have been used to add us to other groups with
  the same keys.

*Spread.*  Members that joined together would otherwise be due together.  Each leaf has its own fraction, from a hash of
the group id and the member's identity.  It shortens the age by up to a quarter.  A leaf that is overdue when it arrives
waits for this fraction of a day, and a leaf of last resort for this fraction of an hour.  The fraction is the same
after every restart.

In the store: space ``renewed/`` + room; key: the client's full identity; value: time of the renewal or the arrival
(8), and, for our own leaf, the number of messages sent since then in epochs that have ended (8).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Self

from ...identity import ClientIdentity
from ...mls.group.commit_effects import Effects
from ...mls.parameters import DAY, HOUR
from ...mls.structures.leaf_node import KeyPackageSource, LeafNode
from ...store.interface import Transaction

__all__ = ["LeafAge", "RenewalSettings", "fraction", "note", "put", "renewed", "renewed_one"]

_NUMBER = 8  # octets


@dataclass(frozen=True, slots=True)
class RenewalSettings:
    """The limits after which our leaf's keys are renewed.

    :ivar age: seconds
    :ivar uses: number of messages
    """

    age: int = 7 * DAY
    uses: int = 1000


@dataclass(frozen=True, slots=True)
class LeafAge:
    """The age of our own leaf.

    :ivar came: time at which we joined the group, seconds since the Unix epoch
    :ivar made: time at which its keys were generated; 0 if they come from a KeyPackage of last resort
    :ivar sent: number of messages sent since then, in epochs that have ended
    """

    came: int
    made: int
    sent: int = 0

    @classmethod
    def arriving(cls, leaf: LeafNode, now: int, *, last_resort: bool) -> Self:
        """The age of our leaf when we join the group."""
        if last_resort:
            return cls(now, 0)
        made = now
        if isinstance(leaf.source, KeyPackageSource):
            made = min(now, leaf.source.lifetime.not_before + HOUR)  # see OwnKeyPackages.make
        return cls(now, made)

    @classmethod
    def decode(cls, value: bytes | None, came: int) -> Self:
        """Decode the value that :meth:`encode` wrote."""
        if value is None:
            return cls(came, came)
        return cls(came, int.from_bytes(value[:_NUMBER], "big"), int.from_bytes(value[_NUMBER:], "big"))

    def encode(self) -> bytes:
        return self.made.to_bytes(_NUMBER, "big") + self.sent.to_bytes(_NUMBER, "big")

    def due(self, settings: RenewalSettings, max_leaf_age: int, spread: float) -> int:
        """The time at which the keys are to be renewed by age, seconds since the Unix epoch.

        :param max_leaf_age: of the group's policy, 0 for none
        :param spread: see :func:`fraction`
        """
        if not self.made:
            return self.came + int(HOUR * spread)
        age = min(settings.age, max_leaf_age * 3 // 4) if max_leaf_age else settings.age
        by_age = self.made + int(age * (1 - spread / 4))
        return max(by_age, self.came + int(min(DAY, age) * spread))

    def why(self, settings: RenewalSettings, max_leaf_age: int, spread: float, now: int, sent: int) -> str | None:
        """The reason to renew the keys now (``age``, ``use`` or ``last-resort``); None if there is none.

        :param sent: number of messages that we have sent in the present epoch
        """
        if self.sent + sent >= settings.uses:
            return "use"
        # After a clock was set back, keys from the future would not be due for a long time.
        if now >= self.due(settings, max_leaf_age, spread) or now < self.made - HOUR:
            return "age" if self.made else "last-resort"
        return None


def fraction(group_id: bytes, client: ClientIdentity) -> float:
    """A member's fraction for the spread, from 0 to 1."""
    digest = sha256(len(group_id).to_bytes(2, "big") + group_id + str(client).encode()).digest()
    return int.from_bytes(digest[:_NUMBER], "big") / (1 << 8 * _NUMBER)


def put(transaction: Transaction, space: str, client: ClientIdentity, age: LeafAge) -> None:
    """Remember the age of a leaf."""
    transaction.put(space, str(client).encode(), age.encode())


def note(
    transaction: Transaction, space: str, effects: Effects, when: int, own: ClientIdentity, came: int, sent: int
) -> None:
    """Remember which leaves a Commit has renewed or added, and forget the removed ones.

    :param when: time at which the room received the Commit, seconds since the Unix epoch
    :param came: time at which we joined the group
    :param sent: number of messages that we have sent in the epoch that the Commit ends
    """
    if sent:
        age = LeafAge.decode(transaction.get(space, str(own).encode()), came)
        transaction.put(space, str(own).encode(), replace(age, sent=age.sent + sent).encode())
    for change in effects.changes:
        if change.after is None and change.before is not None:
            transaction.delete(space, _name(change.before))
        elif change.after is not None:
            transaction.put(space, _name(change.after), LeafAge(came, max(0, when)).encode())


def renewed(transaction: Transaction, space: str) -> dict[str, int]:
    """The time of each leaf's last renewal, or else of its arrival if we saw it, by full identity."""
    return {key.decode(): int.from_bytes(value[:_NUMBER], "big") for key, value in transaction.items(space)}


def renewed_one(transaction: Transaction, space: str, client: ClientIdentity) -> int | None:
    """The same of one leaf; None if it is not known."""
    value = transaction.get(space, str(client).encode())
    return None if value is None else int.from_bytes(value[:_NUMBER], "big")


def _name(leaf: LeafNode) -> bytes:
    return str(ClientIdentity.from_leaf(leaf)).encode()
