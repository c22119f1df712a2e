"""Pending actions outside of the group: those that follow Commits of ours, and leaving.

A Commit takes effect when the room reflects it.  Afterwards the accounts that it added are invited, and the accounts
that it removed lose their affiliation with the room.  New administrators of the group become admins of the room, and
former ones ordinary members (the XEP's "Changing the Policy").  A leave takes several epochs.
The transaction that makes an action necessary also stores it; it is deleted when it is done.  If the program stops in
between, the action is done at the next start.  It may then be done twice, which is harmless.

No other member has these entries.  A client that is added afresh to the same group keeps them, and one that has lost
the group has them again when it is back, except the wish to leave: whoever has that, and loses the group, is out.
They may be old then: each is compared with the group and the room's lists when it is done.

As long as a group's creator is alone in it, the choice of a cipher suite may be open.  That is remembered here, too.

An invitation may be lost.  Once it is sent, an entry about the invited account takes its place, until the account has
joined (:mod:`slixmpp_mls.rooms.engine.repeated_invitations`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from ...identity import ClientIdentity
from ...mls.group.commit_effects import Effects
from ...policy import RoomPolicy
from ...policy.roster import Roster
from .records import InvitedRecord

__all__ = ["Demote", "Invite", "Invited", "Leave", "OpenSuite", "PostCommitActions", "Promote", "Revoke"]


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
class Promote:
    """An account has become an administrator of the group, and is to be an admin of the room."""

    account: str

    @property
    def key(self) -> bytes:
        """Its key in the store."""
        return b"p" + self.account.encode()


@dataclass(frozen=True, slots=True)
class Demote:
    """An account is no administrator of the group any more, and is to be an ordinary member of the room."""

    account: str

    @property
    def key(self) -> bytes:
        """Its key in the store."""
        return b"d" + self.account.encode()


@dataclass(frozen=True, slots=True)
class Invited:
    """An account has been invited, and has not joined as far as we know.  The value is an :class:`InvitedRecord`."""

    account: str

    @property
    def key(self) -> bytes:
        """Its key in the store."""
        return b"w" + self.account.encode()


@dataclass(frozen=True, slots=True)
class Leave:
    """We want to leave the group.  The value is :data:`ALL_DEVICES` if our other devices are to leave, too."""

    key = b"l"


ALL_DEVICES = b"all"


@dataclass(frozen=True, slots=True)
class OpenSuite:
    """Nobody has chosen the group's cipher suite: the first people who are added decide on it."""

    key = b"s"


class PostCommitActions:
    """The contents of a room's space ``owed``, an immutable value."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._entries = dict(entries)

    def __bool__(self) -> bool:
        """Whether something is to be done now, and not only remembered."""
        return not all(key.startswith((b"w", OpenSuite.key)) for key in self._entries)

    def __iter__(self) -> Iterator[Invite | Revoke | Promote | Demote]:
        """What is to be done in the room: invitations, and changes of affiliations."""
        for key, value in self._entries.items():
            account = key[1:].decode()
            if key.startswith(b"i"):
                yield Invite(account, value.decode() or None)
            elif key.startswith(b"r"):
                yield Revoke(account)
            elif key.startswith(b"p"):
                yield Promote(account)
            elif key.startswith(b"d"):
                yield Demote(account)

    @property
    def entries(self) -> dict[bytes, bytes]:
        """All entries, as in the store."""
        return dict(self._entries)

    @property
    def invited(self) -> dict[str, InvitedRecord]:
        """The accounts that have been invited, and have not joined as far as we know."""
        return {
            key[1:].decode(): InvitedRecord.decode(value)
            for key, value in self._entries.items()
            if key.startswith(b"w")
        }

    def is_invited(self, account: str) -> bool:
        """Whether an account has been invited, and has not joined as far as we know."""
        return Invited(account).key in self._entries

    @property
    def leave(self) -> bool:
        """Whether we want to leave."""
        return Leave.key in self._entries

    @property
    def all_devices_leave(self) -> bool:
        """Whether our account's other devices are to leave with us."""
        return self._entries.get(Leave.key) == ALL_DEVICES

    @property
    def suite_is_open(self) -> bool:
        """Whether the first people who are added decide on the cipher suite."""
        return OpenSuite.key in self._entries

    def changed(self, changes: Mapping[bytes, bytes | None]) -> Self:
        """A copy with these entries put, or deleted where the value is None."""
        entries = {**self._entries, **changes}
        return type(self)((key, value) for key, value in entries.items() if value is not None)

    def after_commit(
        self, effects: Effects, roster: Roster, cursor: bytes, *, before: RoomPolicy, after: RoomPolicy
    ) -> dict[bytes, bytes | None]:
        """The entries that a Commit of ours puts or deletes.

        :param roster: the roster after the Commit
        :param cursor: archive id of the stanza before the Commit
        :param before: the policy before the Commit
        :param after: the policy after it
        """
        changes: dict[bytes, bytes | None] = {OpenSuite.key: None}
        for change in effects.removed:
            # The committer of a removal revokes the affiliation: XEP-0045 lets no member give up its own.
            if change.before is not None:
                account = ClientIdentity.from_leaf(change.before).account
                if not roster.has(account):
                    changes[Revoke(account).key] = b""
                    for over in (Invite(account, None), Invited(account), Promote(account), Demote(account)):
                        changes[over.key] = None
        for change in effects.added:
            if change.after is not None:
                account = ClientIdentity.from_leaf(change.after).account
                changes[Invite(account, None).key] = cursor
                changes[Revoke(account).key] = None
        came = {ClientIdentity.from_leaf(change.after).account for change in effects.added if change.after is not None}
        promoted = set(after.administrators) & (came | (set(after.administrators) - set(before.administrators)))
        demoted = set(before.administrators) - set(after.administrators)
        for account in promoted | demoted:
            changes[Promote(account).key] = b"" if account in promoted else None
            changes[Demote(account).key] = b"" if account in demoted else None
        return {key: value for key, value in changes.items() if value is not None or key in self._entries}
