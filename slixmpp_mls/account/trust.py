"""User decisions about keys, and the trust messages that carry them to other devices: ``mls.trust``.

::

    for key in mls.trust.keys("bob@example"):
        print(key.device, key.fingerprint, key.level)
    await mls.trust.verify("bob@example", "xmpp:bob@example?trust-message;...")     # scanned from Bob's screen
    await mls.trust.verify("bob@example", "72cd6e84 22c407fb ...")                  # or compared on the telephone
    mls.trust.qr().save("me.png", scale=6)                                          # for Bob to scan

:mod:`slixmpp_mls.authentication.automatic_trust` has the rules of XEP-0450; this module applies them to rooms.  A trust
message is an application message without a body.  All members receive it, and members that it does not concern ignore
it.  Its only event is ``mls_trust_changed``, if it changes something.  A trust message for a device is sent through the
smallest shared room, now or when there is one.  :meth:`Trust.send_pending` sends pending messages: after each decision,
whenever a member joins a group, and whenever a room has been caught up with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import segno

from ..authentication import (
    AuthenticationService,
    KeyChanged,
    KnownKey,
    ManualTrust,
    NewDevice,
    NewDeviceRule,
    Source,
    TrustChanged,
    TrustEvent,
    TrustManagement,
    TrustOnFirstUse,
    TrustTable,
)
from ..authentication.automatic_trust import compose
from ..client import Device, GroupChanged
from ..errors import MLSError, NotVouchedFor, UsageError
from ..identity import ClientIdentity, TrustLevel, key_identifier, typed_address
from ..mls.tree.tree_math import LeafIndex
from ..rooms.content import seal_elements
from ..rooms.encrypted_room import EncryptedRoom
from ..rooms.registry import Rooms
from ..runtime import Context

__all__ = ["Trust", "qr_code", "trust_of", "with_manual_trust"]

log = logging.getLogger(__name__)

_EVENTS: dict[type[TrustEvent], str] = {NewDevice: "mls_new_key", KeyChanged: "mls_key_changed"}
_SEND_TIMEOUT = 30.0  # seconds until one message is sent
_PAUSE = 0.05  # seconds, so that simultaneous changes give one report


def trust_of(device: Device, clock: Any, *, introductions: bool = False) -> TrustManagement:
    """The device's knowledge of keys, its own included; no connection is needed.

    :param clock: seconds since the Unix epoch
    :raises StoreError: the store failed
    """
    table = TrustTable(device.store, clock=clock)
    with table.open() as keys:
        for scheme, key in device.signature_keys().items():
            keys.own(device.identity, scheme, key)
    return TrustManagement(table, device.identity.account, introductions=introductions)


def qr_code(uri: str) -> segno.QRCode:
    """A QR code: ``.terminal(compact=True)`` prints it, ``.save("me.png", scale=6)`` writes a file."""
    return segno.make_qr(uri, error="m")


def with_manual_trust(
    service: AuthenticationService,
    table: TrustTable,
    *,
    unverified: NewDeviceRule,
    remember: bool,
    fire: Callable[[str, object], None],
) -> AuthenticationService:
    """An Authentication Service around another one: user decisions about keys outrank the inner service.

    :param unverified: the rule for unverified devices of accounts that have verified ones
    :param remember: whether to trust on first use as well
    :param fire: called with the name and the data of each event about an unexpected key
    """
    if remember:
        service = TrustOnFirstUse(service, table)
        service.on_event(lambda event: fire(_EVENTS[type(event)], event))
    return ManualTrust(service, table, unverified=unverified)


class Trust:
    """User decisions about identities.  The plugin makes the object: ``mls.trust``.

    Its methods raise :class:`UsageError` for invalid arguments, with nothing changed, and :class:`StoreError` if the
    store fails.
    """

    def __init__(self, context: Context, rooms: Rooms) -> None:
        self._context = context
        self._rooms = rooms
        self._management = context.trust
        self._table = context.trust.table
        self._sending = asyncio.Lock()
        self._due = asyncio.Event()
        self._handlers: dict[str, Callable[[Any], None]] = {
            "mls_joined": self._soon,
            "mls_group_changed": self._group_changed,
            "mls_catching_up": lambda event: self._soon() if event.complete else None,
        }
        self._end: Callable[[], None] | None = None

    def start(self) -> None:
        """Report changes, and record pending messages; :meth:`run` sends them."""
        for name, handler in self._handlers.items():
            self._context.xmpp.add_event_handler(name, handler)
        self._end = self._table.on_change(self._changed)

    def close(self) -> None:
        """The counterpart of :meth:`start`."""
        for name, handler in self._handlers.items():
            self._context.xmpp.del_event_handler(name, handler)
        if self._end is not None:
            self._end()
            self._end = None

    # --- known keys ----------------------------------------------------------------------------

    def keys(self, account: str | None = None) -> list[KnownKey]:
        """All keys that we have seen or been told of, our own included.

        :param account: bare JID; all accounts if not given
        """
        return self._table.everything() if account is None else self._table.of(typed_address(account))

    def level(self, account: str, signature_key: bytes) -> TrustLevel:
        """The trust level of a key for an account (bare JID)."""
        return self._table.get(account, key_identifier(signature_key)).level

    def uri(self) -> str:
        """Our own keys as a Trust Message URI (XEP-0434): this device's, and our other devices' verified keys."""
        return self._management.uri()

    def qr(self) -> segno.QRCode:
        """:meth:`uri` as a QR code; see :func:`qr_code`."""
        return qr_code(self.uri())

    # --- user decisions ------------------------------------------------------------------------

    async def verify(self, account: str, *proofs: str) -> list[KnownKey]:
        """Verify keys of an account: they have been compared with the display of the account's own devices.

        Our other devices, and the account's, are told (XEP-0450), as far as rooms are shared.

        :param account: bare JID
        :param proofs: Trust Message URIs, or fingerprints of 64 hexadecimal digits, exactly as displayed
        :returns: these keys; those without `device` have not been met yet
        :raises UsageError: a fingerprint that none of the account's known keys has (**do not trust them**), a URI of
            another account, or neither a URI nor a fingerprint; or no address
        """
        keys = self._management.verify(typed_address(account), *_texts(proofs))
        await self.send_pending()
        return keys

    async def distrust(self, account: str, *proofs: str) -> list[KnownKey]:
        """Distrust keys of an account; our other devices are told.

        :param account: bare JID
        :param proofs: fingerprints of 64 hexadecimal digits
        :returns: these keys
        """
        keys = self._management.distrust(typed_address(account), *_texts(proofs))
        await self.send_pending()
        return keys

    # --- events --------------------------------------------------------------------------------

    def _changed(self, change: TrustChanged) -> None:
        if change.key.source not in (Source.FIRST_USE, Source.SELF, Source.REPLACED):
            self._context.fire("mls_trust_changed", change)
            self._soon()

    # --- sending -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send pending messages until cancelled."""
        while True:
            await self._due.wait()
            await asyncio.sleep(_PAUSE)
            await self.send_pending()

    def _soon(self, _: object = None) -> None:
        self._due.set()

    def _group_changed(self, event: GroupChanged) -> None:
        # A member removed and added by the same Commit has lost its state, and cannot read what it has not read by
        # then.
        afresh = {member.identity for member in event.added} & {member.identity for member in event.removed}
        if afresh:
            again = (member for member in event.added if member.identity in afresh)
            self._management.forget_told(
                KnownKey(member.account, key_identifier(member.signature_key)) for member in again
            )
        if event.added or event.updated:
            self._soon()

    async def send_pending(self) -> None:
        """Send pending messages to members of rooms that we are in now; the rest wait for an occasion."""
        async with self._sending:
            self._due.clear()
            rooms = [room for room in self._rooms.all.values() if room.is_member and room.live]
            for room in sorted(rooms, key=lambda room: len(room.group.roster)):
                try:
                    async with asyncio.timeout(_SEND_TIMEOUT):
                        await self._tell(room)
                except (MLSError, TimeoutError) as error:
                    log.info("%s: trust messages have to wait: %s", room.jid, error)

    async def _tell(self, room: EncryptedRoom) -> None:
        present = [key for key in self._management.recipients() if self._is_in(room, key)]
        statements = self._management.owed(present)
        if not statements:
            return
        if room.group.sending.silenced:
            with suppress(NotVouchedFor):
                await room.worker.checks.look_again()  # a decision may have answered its question
        account = self._context.device.identity.account
        for message in compose(statements):
            data = seal_elements([message.to_lxml()], account, room.jid, self._context.time())
            await room.worker.sender.send(data, None)
        self._management.told(present, statements)

    def _is_in(self, room: EncryptedRoom, key: KnownKey) -> bool:
        group = room.group
        if key.device is not None:
            return group.members.has_key(ClientIdentity(key.account, key.device), key.signature_key)
        leaves = (group.mls.tree.member(LeafIndex(index)) for index in group.roster.leaves_of(key.account))
        return any(key_identifier(leaf.signature_key) == key.identifier for leaf in leaves)


def _texts(proofs: tuple[object, ...]) -> list[str]:
    """
    :raises UsageError: one of them is no text
    """
    texts = [proof for proof in proofs if isinstance(proof, str)]
    if len(texts) < len(proofs):
        raise UsageError("what is verified is a fingerprint, or the text of a QR code")
    return texts
