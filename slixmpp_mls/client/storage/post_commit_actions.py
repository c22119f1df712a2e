"""Pending actions outside of the group: those that follow Commits of ours, and leaving.

A Commit takes effect when the room reflects it.  Afterwards the accounts that it added are invited, and the accounts
that it removed lose their affiliation with the room (the XEP's "Adding and Removing").  A leave takes several epochs.
The transaction that makes an action necessary also stores it; it is deleted when it is done.  If the program stops in
between, the action is done at the next start.  It may then be done twice, which is harmless.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from ...identity import ClientIdentity
from ...mls.group.commit_effects import Effects
from ...mls.structures.framing import MemberSender
from ...policy.roster import Roster

__all__ = ["Invite", "Leave", "PostCommitActions", "Revoke"]


@dataclass(frozen=True, slots=True)
class Invite:
    """An account was added and is to be invited.

    :ivar after: archive id of the stanza before the one with its Welcome; None if that is the room's first
    """

    account: str
    after: str | None

    @property
    def key(self) -> bytes:
        """Its key in the store."""
        return b"i" + self.account.encode()


@dataclass(frozen=True, slots=True)
class Revoke:
    """An account was removed and is to lose its affiliation with the room."""

    account: str

    @property
    def key(self) -> bytes:
        """Its key in the store."""
        return b"r" + self.account.encode()


@dataclass(frozen=True, slots=True)
class Leave:
    """We want to leave the group."""

    key = b"l"


class PostCommitActions:
    """The contents of a room's space ``owed``, an immutable value."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._entries = dict(entries)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __iter__(self) -> Iterator[Invite | Revoke]:
        """Invitations and revocations."""
        for key, value in self._entries.items():
            account = key[1:].decode()
            if key.startswith(b"i"):
                yield Invite(account, value.decode() or None)
            elif key.startswith(b"r"):
                yield Revoke(account)

    @property
    def entries(self) -> dict[bytes, bytes]:
        """All entries, as in the store."""
        return dict(self._entries)

    @property
    def leave(self) -> bool:
        """Whether we want to leave."""
        return Leave.key in self._entries

    def changed(self, changes: Mapping[bytes, bytes | None]) -> Self:
        """A copy with these entries put, or deleted where the value is None."""
        entries = {**self._entries, **changes}
        return type(self)((key, value) for key, value in entries.items() if value is not None)

    def after_commit(self, effects: Effects, own: int, roster: Roster, cursor: bytes) -> dict[bytes, bytes | None]:
        """The entries that a Commit of ours puts or deletes.

        :param own: our leaf index
        :param roster: the roster after the Commit
        :param cursor: archive id of the stanza before the Commit
        """
        changes: dict[bytes, bytes | None] = {}
        for change in effects.removed:
            # The proposer of a removal revokes the affiliation; a member that leaves gives it up by itself.
            if change.before is not None and change.proposer == MemberSender(own):
                account = ClientIdentity.from_leaf(change.before).account
                if not roster.has(account):
                    changes[Revoke(account).key] = b""
                    changes[Invite(account, None).key] = None
        for change in effects.added:
            if change.after is not None:
                account = ClientIdentity.from_leaf(change.after).account
                changes[Invite(account, None).key] = cursor
                changes[Revoke(account).key] = None
        return {key: value for key, value in changes.items() if value is not None or key in self._entries}
