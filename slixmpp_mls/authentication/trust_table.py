"""One table of all that we know about signature keys.

Trust on first use, people, trust messages (XEP-0450) and the key's own holder make statements about a key.  One record
for each key of each account holds the result: a level, and its source.

The key's name is its identifier, the SHA-256 of the signature key, because a fingerprint, a QR code and a trust message
contain nothing else.  Device, signature scheme and the key itself are added when a leaf shows them, so a key can be
verified before it has ever been met.

Succession.  RFC 9420 12.1.2 and 12.4: an Update, and a Commit with a path, replace the sender's own leaf, and are
signed with the key of the leaf that they replace.  The holder of the old key has therefore named the new one, with the
same proof as in a trust message, and the new key gets the old one's level.  This includes distrust, since a new key
would otherwise shake it off.  The old key is no more than trusted from then on (``REPLACED``): it may still be in other
groups for a while, and the answer of its account's server counts again.

In the store: space ``trust``, key ``account NUL``, key identifier (32); value :class:`KeyRecord`.  Records that anybody
can cause (undecided and replaced keys) have a low limit for each account, the others a higher one.  The number of
accounts of which there are only such records is limited as well: the one goes that was seen first.

Such records are also forgotten with the group that has shown them (:meth:`TrustTable.tidy`).  The keys of a group's
members are pinned at first sight, so the number of accounts that nobody has decided about by hand is limited, too.  The
accounts in our groups always stay: otherwise floods of strangers could make us forget the pins of friends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Annotated, Self

from ..identity import ClientIdentity, TrustLevel, group_digits, key_identifier
from ..mls import tls
from ..mls.tls import Struct, opaque, struct, uint16, uint64
from ..store.interface import Store, Transaction
from .callbacks import Listeners

__all__ = ["Keys", "KnownKey", "Source", "TrustChanged", "TrustTable"]

SPACE = "trust"
MAX_KEYS = 200  # of one account
MAX_UNPROVEN = 64  # of one account: undecided ones, and replaced ones
MAX_ACCOUNTS = 20_000  # that are in no group of ours, and about which no person has decided
MAX_UNPROVEN_ACCOUNTS = 2000  # with such keys only: a Welcome can name any number of accounts


class Source(IntEnum):
    """How a key came to its level."""

    NONE = 0
    """It has been seen, no more."""
    SELF = 1
    """It is this device's own."""
    FIRST_USE = 2
    """See :mod:`.trust_on_first_use`."""
    PERSON = 3
    """Somebody has compared, accepted or refused it on this device; XEP-0450 says "manually"."""
    OWN_DEVICE = 4
    """By a trust message of another device of ours."""
    CONTACT = 5
    """By a trust message of another device of the key's account."""
    INTRODUCTION = 6
    """By a trust message of somebody else, whom we have verified."""
    REPLACED = 7
    """Its holder has another key now."""

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


@struct
class KeyRecord(Struct):
    """A key.  Unknown fields are empty, or 0.

    `since` is when it was decided, in seconds since the Unix epoch, `by` the full identity of the sender of the trust
    message.
    """

    level: Annotated[TrustLevel, tls.Enum(TrustLevel)]
    source: Annotated[Source, tls.Enum(Source)]
    since: uint64
    device: opaque
    scheme: uint16
    signature_key: opaque
    by: opaque


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key, and what we know of it.

    :ivar account: bare JID
    :ivar identifier: SHA-256 of the key
    :ivar since: when the level was decided, or the undecided key first seen, seconds since the Unix epoch
    :ivar device: device id; None if no device has shown the key yet
    :ivar scheme: number of its TLS SignatureScheme, 0 if not known
    :ivar signature_key: the key, empty if not known
    :ivar by: full identity of the sender, if the level comes from a trust message
    """

    account: str
    identifier: bytes = field(repr=False)
    level: TrustLevel = TrustLevel.UNDECIDED
    source: Source = Source.NONE
    since: int = 0
    device: str | None = None
    scheme: int = 0
    signature_key: bytes = field(default=b"", repr=False)
    by: str | None = None

    @property
    def fingerprint(self) -> str:
        """For people to compare: eight groups of eight hexadecimal digits."""
        return group_digits(self.identifier)

    @property
    def is_proven(self) -> bool:
        """Whether a person has decided on it."""
        return self.level is not TrustLevel.UNDECIDED and self.source is not Source.REPLACED

    def belongs_to(self, client: ClientIdentity, scheme: int) -> bool:
        """Whether it has been seen with this device."""
        return (self.account, self.device, self.scheme) == (client.account, client.device, scheme)

    def is_anothers(self, client: ClientIdentity) -> bool:
        """Whether it has been seen with another device of the account: no two devices have one key."""
        return self.device is not None and self.device != client.device


@dataclass(frozen=True, slots=True)
class TrustChanged:
    """A key has come to another level.

    :ivar key: as it is now
    :ivar before: the level until now
    """

    key: KnownKey
    before: TrustLevel

    @property
    def account(self) -> str:
        """The account of the key, bare JID."""
        return self.key.account

    @property
    def level(self) -> TrustLevel:
        """The level from now on."""
        return self.key.level


class TrustTable:
    """The table, in the store of an account.

    All methods raise :class:`StoreError` if the store fails.

    :param clock: seconds since the Unix epoch
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self.store = store
        self._clock = clock
        self._listeners: Listeners[TrustChanged] = Listeners()
        self._index: _Index | None = None

    @property
    def now(self) -> int:
        """Whole seconds since the Unix epoch."""
        return int(self._clock())

    @contextmanager
    def open(self) -> Iterator[Keys]:
        """All reads and writes in the block are one transaction; listeners are called after it."""
        index, self._index = self._index, None  # what fails may have changed it
        with self.store.transaction() as transaction:
            keys = Keys(transaction, self.now, index)
            yield keys
        self._index = keys.index
        for change in keys.changes:
            self._listeners.tell(change)

    def get(self, account: str, identifier: bytes) -> KnownKey:
        """What is known of a key."""
        with self.store.transaction() as transaction:
            value = transaction.get(SPACE, _prefix(account) + identifier)
        return KnownKey(account, identifier) if value is None else _known(account, identifier, value)

    def of(self, account: str) -> list[KnownKey]:
        """An account's keys, by identifier."""
        with self.open() as keys:
            return keys.of(account)

    def everything(self) -> list[KnownKey]:
        """All keys, by account and identifier."""
        with self.open() as keys:
            return list(keys.all())

    def decided(self) -> list[KnownKey]:
        """The keys that are verified or distrusted, by account and identifier; not this device's own."""
        if self._index is not None and not self._index.decided:
            return []  # it is asked after each Commit
        with self.open() as keys:
            return keys.decided()

    def tidy(self, present: Collection[str]) -> int:
        """Forget accounts that are in no group of ours: those whose keys nobody has vouched for, and the ones that
        were pinned first, if there are more than :data:`MAX_ACCOUNTS`.

        Accounts about which a person has decided are never forgotten.

        :param present: the accounts in our groups
        :returns: the number of accounts that are forgotten
        """
        with self.open() as keys:
            return keys.tidy(present)

    def on_change(self, report: Callable[[TrustChanged], None]) -> Callable[[], None]:
        """Have `report` called with each change of a level that is made through this object.

        :returns: ends it
        """
        return self._listeners.add(report)


@dataclass(slots=True)
class _Index:
    """What would need a look at all keys, kept in memory.

    :ivar unproven: accounts without proven keys, the one first that has shown nothing new for longest
    :ivar decided: account and identifier of each key that is verified or distrusted, but for this device's own
    """

    unproven: dict[str, None] = field(default_factory=dict)
    decided: set[tuple[str, bytes]] = field(default_factory=set)

    @classmethod
    def of(cls, keys: Iterable[KnownKey]) -> Self:
        """The index of a table."""
        index, seen, proven = cls(), dict[str, int](), set[str]()
        for key in keys:
            seen[key.account] = max(key.since, seen.get(key.account, 0))
            if key.is_proven:
                proven.add(key.account)
            index.note(key)
        index.unproven = dict.fromkeys(sorted(seen.keys() - proven, key=lambda account: seen[account]))
        return index

    def note(self, key: KnownKey) -> None:
        """Note the level of a key."""
        name = key.account, key.identifier
        if key.level in (TrustLevel.VERIFIED, TrustLevel.DISTRUSTED) and key.source is not Source.SELF:
            self.decided.add(name)
        else:
            self.decided.discard(name)


class Keys:
    """The table within one transaction.

    :ivar now: seconds since the Unix epoch
    :ivar changes: of levels, so far
    :ivar index: of the table, if anything has needed it yet; it is of no use if the transaction fails
    """

    def __init__(self, transaction: Transaction, now: int, index: _Index | None = None) -> None:
        self.transaction = transaction
        self.now = now
        self.changes: list[TrustChanged] = []
        self.index = index
        self._read: dict[str, dict[bytes, KnownKey]] = {}  # whole accounts: all of their leaves ask for the same

    # --- reading -------------------------------------------------------------------------------

    def get(self, account: str, identifier: bytes) -> KnownKey:
        return self._of(account).get(identifier) or KnownKey(account, identifier)

    def of(self, account: str) -> list[KnownKey]:
        """An account's keys."""
        return list(self._of(account).values())

    def _of(self, account: str) -> dict[bytes, KnownKey]:
        if account not in self._read:
            prefix = _prefix(account)
            found = ((key[len(prefix) :], value) for key, value in self.transaction.items(SPACE, prefix))
            self._read[account] = {identifier: _known(account, identifier, value) for identifier, value in found}
        return self._read[account]

    def all(self) -> Iterator[KnownKey]:
        """Everybody's."""
        for key, value in self.transaction.items(SPACE):
            account, _, identifier = key.partition(b"\0")
            yield _known(account.decode(), identifier, value)

    def decided(self) -> list[KnownKey]:
        """As :meth:`TrustTable.decided`."""
        return [self.get(*name) for name in sorted(self._indexed().decided)]

    def _indexed(self) -> _Index:
        if self.index is None:
            self.index = _Index.of(self.all())
        return self.index

    # --- writing -------------------------------------------------------------------------------

    def put(self, key: KnownKey) -> bool:
        """Write a record.

        :returns: False if there are too many of the account's already
        """
        before = self.get(key.account, key.identifier)
        if before == key:
            return True
        if key.identifier not in self._of(key.account):
            if not self._of(key.account) and not key.is_proven:
                self._make_room_for_account()
            if not self._make_room(key):
                return False
        self._write(key)
        if before.level is not key.level:
            self.changes.append(TrustChanged(key, before.level))
        return True

    def delete(self, key: KnownKey) -> None:
        self.transaction.delete(SPACE, _prefix(key.account) + key.identifier)
        there = self._of(key.account)
        there.pop(key.identifier, None)
        if self.index is not None:
            self.index.decided.discard((key.account, key.identifier))
            if not there:
                self.index.unproven.pop(key.account, None)
            elif not any(map(_is_proven, there.values())):
                self.index.unproven[key.account] = None

    def meet(self, client: ClientIdentity, scheme: int, signature_key: bytes) -> KnownKey:
        """Note that a leaf of this device has this key; returns the record."""
        key = self.get(client.account, key_identifier(signature_key))
        if key.device is not None:
            return key
        since = key.since or self.now  # of an undecided one: when it was first seen
        key = replace(key, since=since, device=client.device, scheme=scheme, signature_key=signature_key)
        self.put(key)
        return key

    def own(self, client: ClientIdentity, scheme: int, signature_key: bytes) -> None:
        """Note our own key; an earlier own key counts as replaced.

        The key is this client's only: a device that takes another id has never had the id that it had before.
        """
        for key in self.of(client.account):
            if key.source is Source.SELF and key.belongs_to(client, scheme) and key.signature_key != signature_key:
                self.put(replace(key, level=TrustLevel.TRUSTED, source=Source.REPLACED))
        identifier = key_identifier(signature_key)
        before = self.get(client.account, identifier)
        if before.source is not Source.SELF or not before.belongs_to(client, scheme):
            level, source = TrustLevel.VERIFIED, Source.SELF
            self._write(
                KnownKey(client.account, identifier, level, source, self.now, client.device, scheme, signature_key)
            )

    def succeed(self, client: ClientIdentity, scheme: int, before: bytes, after: bytes) -> None:
        """Note that the holder of one key has replaced it by another; see above.

        :param before: signature key of the leaf that was replaced, and by which the replacement was signed
        :param after: signature key of the new leaf
        """
        old = self.get(client.account, key_identifier(before))
        new = self.get(client.account, key_identifier(after))
        if old.identifier == new.identifier or not old.is_proven or old.source is Source.SELF:
            return
        if new.is_proven and not (new.level is TrustLevel.TRUSTED and old.level is not TrustLevel.TRUSTED):
            return  # a record of a better source exists
        new = replace(
            new, level=old.level, source=old.source, since=old.since, by=old.by,
            device=client.device, scheme=scheme, signature_key=after,
        )  # fmt: skip
        if not self.put(new):  # nobody shakes off distrust by renewing keys until the table is full
            self.delete(old)
            self.put(new)
        elif old.level is not TrustLevel.DISTRUSTED:
            self.put(replace(old, level=TrustLevel.TRUSTED, source=Source.REPLACED, since=self.now))

    def _write(self, key: KnownKey) -> None:
        record = KeyRecord(
            key.level, key.source, key.since, (key.device or "").encode(), key.scheme, key.signature_key,
            (key.by or "").encode(),
        )  # fmt: skip
        self.transaction.put(SPACE, _prefix(key.account) + key.identifier, record.encode())
        there = self._of(key.account)
        new = key.identifier not in there
        there[key.identifier] = key
        if self.index is not None:
            self.index.note(key)
            if key.is_proven:
                self.index.unproven.pop(key.account, None)
            elif (new or key.account not in self.index.unproven) and not any(map(_is_proven, there.values())):
                self.index.unproven.pop(key.account, None)  # it is the youngest now
                self.index.unproven[key.account] = None

    def _make_room_for_account(self) -> None:
        """Forget accounts without proven keys that have shown nothing new for longest, if there are too many."""
        unproven = self._indexed().unproven
        while len(unproven) >= MAX_UNPROVEN_ACCOUNTS:
            oldest = next(iter(unproven))
            for key in self.of(oldest):
                self.delete(key)
            unproven.pop(oldest, None)

    def tidy(self, present: Collection[str]) -> int:
        """See :meth:`TrustTable.tidy`."""
        accounts: dict[str, list[KnownKey]] = {}
        for key in self.all():
            if key.account not in present:
                accounts.setdefault(key.account, []).append(key)
        # A key that was entered before any device has shown it is somebody's wish.
        seen = {account: found for account, found in accounts.items() if all(map(_is_unattended, found))}
        doomed = [account for account, found in seen.items() if not any(key.is_proven for key in found)]
        pinned = sorted(seen.keys() - {*doomed}, key=lambda account: max(key.since for key in seen[account]))
        doomed += pinned[: max(0, len(pinned) - MAX_ACCOUNTS)]
        for account in doomed:
            for key in seen[account]:
                self.delete(key)
        return len(doomed)

    def _make_room(self, key: KnownKey) -> bool:
        there = self._of(key.account)
        unproven = [one for one in there.values() if not one.is_proven]
        if len(unproven) >= MAX_UNPROVEN:
            self.delete(min(unproven, key=lambda one: one.since))
        return len(there) < MAX_KEYS


def _is_proven(key: KnownKey) -> bool:
    return key.is_proven


def _is_unattended(key: KnownKey) -> bool:
    """Whether no person and no trust message has ever decided about a key."""
    return key.source in (Source.NONE, Source.FIRST_USE, Source.REPLACED) and key.level in (
        TrustLevel.UNDECIDED, TrustLevel.TRUSTED,
    )  # fmt: skip


def _prefix(account: str) -> bytes:
    # NUL is in no account's name, so no account's prefix is another one's beginning.
    return account.encode() + b"\0"


def _known(account: str, identifier: bytes, value: bytes) -> KnownKey:
    record = KeyRecord.decode(value)
    return KnownKey(
        account, identifier, record.level, record.source, record.since, record.device.decode() or None, record.scheme,
        record.signature_key, record.by.decode() or None,
    )  # fmt: skip
