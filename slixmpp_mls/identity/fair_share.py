"""Selects which of the things that accounts have sent us make room for others.

Any account may send us some, and a server can have any number of accounts.  Therefore nobody's things are displaced by
those of a sender, or of a server, that has sent more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

__all__ = ["displaced"]


def displaced(senders: Sequence[str], *, of_one: int, in_all: int) -> set[int]:
    """The positions of those that make room.

    Of each account, the latest ones are kept.  If there are too many in all, the oldest one of the account with the
    most on the server with the most goes, one after another.

    :param senders: the account (a bare JID) of each one, the oldest first
    :param of_one: number of one account that are kept, at most
    :param in_all: number of all that are kept, at most
    """
    kept: list[int] = []
    of_account: Counter[str] = Counter()
    for position in reversed(range(len(senders))):
        if of_account[senders[position]] < of_one:
            of_account[senders[position]] += 1
            kept.insert(0, position)
    of_server = Counter(_server(senders[position]) for position in kept)
    while len(kept) > in_all:
        goes = max(kept, key=lambda each: (of_server[_server(senders[each])], of_account[senders[each]], -each))
        kept.remove(goes)
        of_server[_server(senders[goes])] -= 1
        of_account[senders[goes]] -= 1
    return set(range(len(senders))).difference(kept)


def _server(account: str) -> str:
    return account.rpartition("@")[2]
