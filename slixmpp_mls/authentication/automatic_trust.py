"""Automatic Trust Management (XEP-0450): devices share the results of people's comparisons of keys.

No I/O: :class:`TrustManagement` takes decisions of people and trust messages of other devices, updates the
:mod:`.trust_table`, and says which statements we owe to which device.  :mod:`slixmpp_mls.account.trust` sends them.

Receiving.  A trust message counts if its sender's key is verified, and

- is another device's of our own account: for all keys;
- is another device's of the keys' account: for these;
- is somebody else's: not at all by XEP-0450.  With `introductions`, the word of a person whom *we* (people at one of
  our devices, not other introductions) have verified counts for third persons' keys.  The members of a room then need
  to compare keys with one member only, but must believe that member.

A message by an unverified key waits, within bounds, until the key is verified; a message by a distrusted key is
dropped.  Only people can take back a person's refusal, here or at our other devices.  An older statement never undoes a
newer one.

Sending.  In XEP-0450 a device sends messages at the moment of a comparison, to all devices that it can reach.  A room
reaches only its members.  Therefore each device *owes* each verified key the results of its own comparisons.  The store
notes the statements that were sent; the others are due as soon as the devices share a room.
:meth:`TrustManagement.owed` has the table.

In the store: space ``trust-waiting``, key ``account NUL``, sender's key (32), ``owner NUL``, key (32), value
:class:`_Waiting`; space ``trust-told``, key: recipient's key (32), ``owner NUL``, key (32), value: the verb (1).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import groupby
from operator import attrgetter
from typing import Annotated, TypeVar

from ..errors import MalformedError, PeerError, UsageError
from ..identity import ClientIdentity, TrustLevel, key_identifier
from ..mls import tls
from ..mls.tls import Struct, struct, uint64
from ..stanza.trust_message import MAX_KEYS, NS, KeyOwner, TrustMessage, parse_fingerprint
from ..stanza.xml import AnyElement
from .trust_table import Keys, KnownKey, Source, TrustTable

__all__ = ["Statement", "TrustManagement", "Verb", "compose"]

T = TypeVar("T")

log = logging.getLogger(__name__)

_TAG = f"{{{NS}}}trust-message"

WAITING = "trust-waiting"
TOLD = "trust-told"
MAX_WAITING = 2000  # statements whose senders are not verified
MAX_WAITING_OF_ONE = 200  # the same of one account


class Verb(IntEnum):
    """The statement about a key."""

    TRUST = 1
    DISTRUST = 2


@dataclass(frozen=True, slots=True, order=True)
class Statement:
    """One key in a trust message."""

    owner: str
    identifier: bytes = field(repr=False)
    verb: Verb


@struct
class _Waiting(Struct):
    """`sent`: seconds since the Unix epoch; `device`: of the sender, its full identity."""

    verb: Annotated[Verb, tls.Enum(Verb)]
    sent: uint64
    device: tls.opaque


class TrustManagement:
    """One device's part in XEP-0450.

    All methods raise :class:`StoreError` if the store fails.

    :param account: our own, bare JID
    :param introductions: whether statements of verified people count for third persons, and whether we make such
        statements
    """

    def __init__(self, table: TrustTable, account: str, *, introductions: bool = False) -> None:
        self.table = table
        self.account = account
        self.introductions = introductions

    # --- people decide -------------------------------------------------------------------------

    def decide(self, account: str, *, verify: Iterable[bytes] = (), distrust: Iterable[bytes] = ()) -> list[KnownKey]:
        """Record that a person has compared, or refuses, keys of an account (never of this device).

        :param verify: key identifiers
        :param distrust: key identifiers
        :returns: all these keys, as they are now known
        :raises UsageError: too many keys
        """
        decided = [(TrustLevel.VERIFIED, one) for one in verify] + [(TrustLevel.DISTRUSTED, one) for one in distrust]
        with self.table.open() as keys:
            known = [(level, keys.get(account, identifier)) for level, identifier in decided]
            known = [(level, key) for level, key in known if key.source is not Source.SELF]
            for level, key in known:
                if not keys.put(replace(key, level=level, source=Source.PERSON, since=keys.now, by=None)):
                    raise UsageError(f"too many keys of {account} are known")
            self._follow(keys, (key for _, key in known))
            return [keys.get(account, key.identifier) for _, key in known]

    def verify(self, account: str, *proofs: str) -> list[KnownKey]:
        """Record that a person has compared keys of an account.

        :param account: bare JID
        :param proofs: fingerprints of 64 hexadecimal digits, or Trust Message URIs (XEP-0434)
        :returns: these keys, as they are now known
        :raises UsageError: neither of both, somebody else's URI, or a fingerprint that no known key of the account has
        """
        verify: list[bytes] = []
        distrust: list[bytes] = []
        for proof in proofs:
            if proof.lstrip()[:5].lower() == "xmpp:":
                owner = _as_usage(KeyOwner.from_uri, proof)
                if owner.jid != account:
                    raise UsageError(f"the keys are {owner.jid}'s, not {account}'s")
                verify += owner.trust
                distrust += owner.distrust
            else:
                verify.append(self._known(account, proof))
        return self.decide(account, verify=verify, distrust=distrust)

    def distrust(self, account: str, *proofs: str) -> list[KnownKey]:
        """Record that a person refuses keys of an account.

        :param proofs: fingerprints of 64 hexadecimal digits
        :returns: these keys, as they are now known
        :raises UsageError: no fingerprint, or one that no known key of the account has
        """
        return self.decide(account, distrust=[self._known(account, proof) for proof in proofs])

    def _known(self, account: str, proof: str) -> bytes:
        """The fingerprint that a person typed must be a known one, if any key of the account is known."""
        identifier = _as_usage(parse_fingerprint, proof)
        known = self.table.of(account)
        if known and identifier not in {key.identifier for key in known}:
            raise UsageError(f"none of the keys that are known of {account} has this fingerprint: do not trust them")
        return identifier

    def uri(self) -> str:
        """Our account's keys as a Trust Message URI (XEP-0434): the verified ones, and those that were refused."""
        own = self.table.of(self.account)
        trust = tuple(key.identifier for key in own if key.level is TrustLevel.VERIFIED)
        distrust = tuple(key.identifier for key in own if key.level is TrustLevel.DISTRUSTED)
        return KeyOwner(self.account, trust, distrust).to_uri()

    # --- receiving -----------------------------------------------------------------------------

    def take(self, sender: ClientIdentity, signature_key: bytes, content: AnyElement, sent: float | None) -> bool:
        """Act on the trust messages in the content of a message.

        :param sender: the client that has sent it
        :param signature_key: the key in the sender's leaf
        :param content: its children are what the message says
        :param sent: when the sender says that it was sent, seconds since the Unix epoch; None if it does not say
        :returns: whether the message had no other content (XEP-0450 5.3: then it is not shown to people)
        """
        found = content.findall(_TAG)
        if not found:
            return False
        # A sender whose clock is ahead must not have the last word for years; and the year 1 has no number of seconds.
        when = max(0, min(int(sent or 0.0), self.table.now))
        for element in found:
            try:
                said = TrustMessage.read(element)
            except PeerError as error:
                log.info("a trust message of %s cannot be read: %s", sender, error)
                continue
            if said is not None:
                self.receive(sender, key_identifier(signature_key), said, when)
        return len(found) == len(content)

    def receive(self, sender: ClientIdentity, identifier: bytes, message: TrustMessage, sent: int) -> None:
        """Process a trust message.

        :param sender: the client that signed it
        :param identifier: of the sender's key
        :param sent: when the sender says that it was sent, seconds since the Unix epoch; never later than when it came
        """
        with self.table.open() as keys:
            known = keys.get(sender.account, identifier)
            if known.source is Source.SELF or known.level is TrustLevel.DISTRUSTED:
                return
            statements = [one for one in _statements(message) if self._may_count(sender.account, one)]
            if known.level is TrustLevel.VERIFIED:
                changed = [key for one in statements if (key := self._apply(keys, known, one, sent, str(sender)))]
                self._follow(keys, changed)
            else:
                self._wait(keys, sender, identifier, statements, sent)

    def _may_count(self, sender: str, statement: Statement) -> bool:
        return self.introductions or sender in (self.account, statement.owner)

    def _apply(self, keys: Keys, sender: KnownKey, statement: Statement, sent: int, by: str) -> KnownKey | None:
        """Apply a verified sender's statement; returns the key if it changes."""
        key = keys.get(statement.owner, statement.identifier)
        if key.source is Source.SELF:
            return None
        if key.source not in (Source.NONE, Source.FIRST_USE) and sent < key.since:
            return None  # XEP-0434, "SCE Profile": an older statement does not undo a newer one
        if sender.account == self.account:
            source = Source.OWN_DEVICE
        elif sender.account == key.account:
            source = Source.CONTACT
        elif sender.source in (Source.PERSON, Source.OWN_DEVICE, Source.CONTACT):
            source = Source.INTRODUCTION
        else:
            return None  # introduced people do not introduce others
        level = TrustLevel.VERIFIED if statement.verb is Verb.TRUST else TrustLevel.DISTRUSTED
        if not _may_change(key, level, source):
            return None
        key = replace(key, level=level, source=source, since=sent, by=by)
        return key if keys.put(key) else None

    def _wait(
        self, keys: Keys, sender: ClientIdentity, identifier: bytes, statements: Iterable[Statement], sent: int
    ) -> None:
        """XEP-0450, "Storing Trust Message Information from Endpoints with Unauthenticated Keys"."""
        prefix = sender.account.encode() + b"\0"
        counts: dict[bytes, int] = {}
        for name, _ in keys.transaction.items(WAITING):
            account = name[: name.index(b"\0") + 1]
            counts[account] = counts.get(account, 0) + 1
        for statement in statements:
            name = prefix + identifier + _name(statement)
            if keys.transaction.get(WAITING, name) is None:
                if counts.get(prefix, 0) >= MAX_WAITING_OF_ONE:
                    return
                if sum(counts.values()) >= MAX_WAITING:
                    # An account can fill only its own part of the table.
                    most = max(counts, key=lambda account: counts[account])
                    dropped = min(keys.transaction.items(WAITING, most), key=lambda item: _Waiting.decode(item[1]).sent)
                    keys.transaction.delete(WAITING, dropped[0])
                    counts[most] -= 1
                counts[prefix] = counts.get(prefix, 0) + 1
            record = _Waiting(statement.verb, sent, str(sender).encode())
            keys.transaction.put(WAITING, name, record.encode())

    def _follow(self, keys: Keys, changed: Iterable[KnownKey]) -> None:
        """Process the waiting messages of keys that are verified now."""
        todo = deque(changed)
        while todo:
            key = todo.popleft()
            key = keys.get(key.account, key.identifier)
            prefix = key.account.encode() + b"\0" + key.identifier
            waiting = [(name[len(prefix) :], _Waiting.decode(value)) for name, value in
                       keys.transaction.items(WAITING, prefix)]  # fmt: skip
            if key.level is not TrustLevel.VERIFIED:
                keys.transaction.delete_prefix(TOLD, key.identifier)
            keys.transaction.delete_prefix(WAITING, prefix)
            if key.level is TrustLevel.VERIFIED:
                for name, record in sorted(waiting, key=lambda item: item[1].sent):
                    owner, _, identifier = name.partition(b"\0")
                    statement = Statement(owner.decode(), identifier, record.verb)
                    applied = self._apply(keys, key, statement, record.sent, record.device.decode())
                    if applied is not None:
                        todo.append(applied)

    # --- sending -------------------------------------------------------------------------------

    def recipients(self) -> list[KnownKey]:
        """All keys to which something may be owed."""
        return [key for key in self.table.decided() if key.level is TrustLevel.VERIFIED]

    def owed(self, recipients: Iterable[KnownKey]) -> list[Statement]:
        """The statements that we still owe to these keys, each once.

        ================  =============================================================================
        to                what is due
        ================  =============================================================================
        our own devices   all keys that were compared or refused here; when the recipient itself was
                          compared here, all that were verified by then
        other people's    our own account's keys, under the same conditions.  With `introductions`:
                          third persons' keys that were compared or refused here
        ================  =============================================================================
        """
        due: set[Statement] = set()
        recipients = tuple(recipients)
        if not recipients:
            return []
        with self.table.open() as keys:
            everything = [key for key in keys.decided() if key.is_proven]
            for recipient in recipients:
                told = {name[32:]: value for name, value in keys.transaction.items(TOLD, recipient.identifier)}
                for key in everything:
                    statement = self._due(recipient, key)
                    if statement is not None and told.get(_name(statement)) != bytes([statement.verb]):
                        due.add(statement)
        return sorted(due)

    def _due(self, recipient: KnownKey, key: KnownKey) -> Statement | None:
        if key.identifier == recipient.identifier or key.by == f"{recipient.account}/{recipient.device}":
            return None
        compared = key.source is Source.PERSON
        # XEP-0450, "Authenticating the Key of an Own Endpoint": a new device learns the earlier results.
        # Later results reach them from the devices that made the comparison.
        known_by_then = recipient.source is Source.PERSON and key.since <= recipient.since
        if recipient.account == self.account:
            # We do not pass on introductions.
            may = compared or (known_by_then and key.source is not Source.INTRODUCTION)
        elif key.account == self.account:
            may = compared or known_by_then
        else:
            may = compared and self.introductions and key.account != recipient.account
        if may and key.level is TrustLevel.VERIFIED:
            return Statement(key.account, key.identifier, Verb.TRUST)
        if may and key.level is TrustLevel.DISTRUSTED and compared:
            return Statement(key.account, key.identifier, Verb.DISTRUST)
        return None

    def told(self, recipients: Iterable[KnownKey], statements: Sequence[Statement]) -> None:
        """Note that statements to these keys were sent, or are in the outbox."""
        with self.table.open() as keys:
            for recipient in recipients:
                for statement in statements:
                    value = bytes([statement.verb])
                    keys.transaction.put(TOLD, recipient.identifier + _name(statement), value)

    def forget_told(self, recipients: Iterable[KnownKey]) -> None:
        """Note that these keys have lost our statements."""
        with self.table.open() as keys:
            for recipient in recipients:
                keys.transaction.delete_prefix(TOLD, recipient.identifier)


def _may_change(key: KnownKey, level: TrustLevel, source: Source) -> bool:
    """Whether a verified sender's statement prevails over the present record of the key."""
    if level is key.level and key.is_proven:
        # The same again, from a better source perhaps: people's own devices, then the key's account, then others.
        return source < key.source and key.source is not Source.PERSON and level is TrustLevel.VERIFIED
    if source is Source.OWN_DEVICE:
        return True  # it is people at our other device who have decided
    if key.level is TrustLevel.DISTRUSTED:
        # Others cannot undo our refusal.
        return source is Source.CONTACT and key.source is Source.CONTACT
    if level is TrustLevel.DISTRUSTED and source is Source.INTRODUCTION:
        return key.source is Source.INTRODUCTION  # an introducer may undo its introduction, and nothing else
    return True


def _as_usage(read: Callable[[str], T], text: str) -> T:
    """Blame the caller for input that a person typed, not a peer."""
    try:
        return read(text)
    except MalformedError as error:
        raise UsageError(str(error)) from None


def _name(statement: Statement) -> bytes:
    return statement.owner.encode() + b"\0" + statement.identifier


def _statements(message: TrustMessage) -> Iterator[Statement]:
    for owner in message.owners:
        yield from (Statement(owner.jid, key, Verb.TRUST) for key in owner.trust)
        yield from (Statement(owner.jid, key, Verb.DISTRUST) for key in owner.distrust)


def compose(statements: Sequence[Statement]) -> list[TrustMessage]:
    """The trust messages with these statements."""

    def owner(jid: str, of: list[Statement]) -> KeyOwner:
        def said(verb: Verb) -> tuple[bytes, ...]:
            return tuple(one.identifier for one in of if one.verb is verb)

        return KeyOwner(jid, said(Verb.TRUST), said(Verb.DISTRUST))

    return [
        TrustMessage(tuple(owner(jid, list(of)) for jid, of in groupby(sorted(chunk), attrgetter("owner"))))
        for chunk in (statements[start : start + MAX_KEYS] for start in range(0, len(statements), MAX_KEYS))
    ]
