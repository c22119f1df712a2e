"""Limits how often clients of an account enter the group at their own request.

A new member's Add (RFC 9420 12.1.8) makes a member commit.  A broken client, or a device list that grows by one device
a minute, must not keep the whole group busy.  After :data:`LIMIT` arrivals of an account within an hour, members no
longer commit its requests automatically.  External Commits count as well, although they need no member.  All members
keep this count, because any of them may be the next committer.
"""

from __future__ import annotations

from ...identity import ClientIdentity
from ...mls.group.commit_effects import Effects
from ...mls.parameters import HOUR
from ...mls.structures.framing import NewMemberCommitSender, NewMemberProposalSender
from ...store.interface import Transaction

__all__ = ["LIMIT", "is_too_often", "note"]

LIMIT = 5
"""Arrivals of one account in an hour."""

_TIME = 8  # octets of a time


def is_too_often(transaction: Transaction, space: str, account: str, when: int) -> bool:
    """Whether an account has reached the limit.

    :param when: seconds since the Unix epoch
    """
    return len(_recent(transaction.get(space, account.encode()), when)) >= LIMIT


def note(transaction: Transaction, space: str, effects: Effects, when: int) -> None:
    """Remember the arrivals by a Commit."""
    for change in effects.added:
        if change.after is None or not isinstance(change.proposer, NewMemberProposalSender | NewMemberCommitSender):
            continue
        account = ClientIdentity.from_leaf(change.after).account.encode()
        times = [*_recent(transaction.get(space, account), when), when][-LIMIT:]
        transaction.put(space, account, b"".join(time.to_bytes(_TIME, "big") for time in times))


def _recent(stored: bytes | None, when: int) -> list[int]:
    stored = stored or b""
    times = [int.from_bytes(stored[place : place + _TIME], "big") for place in range(0, len(stored), _TIME)]
    return [time for time in times if abs(when - time) < HOUR]  # abs(): after a clock was set back, old times expire
