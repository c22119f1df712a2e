"""This device's certificate: its use in KeyPackages and groups, and its replacement before it expires.

A new certificate reaches other members in two ways.  New KeyPackages replace those with the old certificate in the
directory.  A Commit in each group brings a leaf with the new certificate (RFC 9420 12.4.2).  A group whose room is
unreachable gets the Commit later.  Until then the old leaf stays, and is as valid as the old certificate.

In the last third of a certificate's lifetime the application gets the reminder ``mls_certificate_expires``, at each
start and then once a day.  The application has the request signed by its authority and supplies the new certificate.
"""

from __future__ import annotations

import asyncio
import logging

from ..client.device.certificates import CertificateExpires
from ..errors import MLSError, PeerError, UsageError, suite_name
from ..identity.certificates import chain_from_pem
from ..key_packages.publication import Publication
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.parameters import DAY
from ..rooms.encrypted_room import EncryptedRoom
from ..rooms.registry import Rooms
from ..runtime import Context

__all__ = ["CertificateExpires", "CertificateRenewal"]

log = logging.getLogger(__name__)


class CertificateRenewal:
    """The certificates of this device."""

    def __init__(self, context: Context, rooms: Rooms, publication: Publication) -> None:
        self._context = context
        self._rooms = rooms
        self._publication = publication
        self._reminded: dict[int, int] = {}  # when, by signature scheme

    def request(self, suite: int | None) -> bytes:
        """See :meth:`MLS.certificate_request`."""
        device = self._context.device
        number = device.suites[0] if suite is None else suite
        if number not in device.suites:
            raise UsageError(f"cipher suite {suite_name(number)} is not one of ours")
        return device.certificates.request(CipherSuite.get(number).signature_scheme)

    async def use(self, chain: bytes | str | None) -> None:
        """See :meth:`MLS.use_certificate`."""
        certificates = self._context.device.certificates
        if chain is None:
            certificates.drop()
        else:
            if not isinstance(chain, bytes | str):
                raise UsageError(f"a chain of certificates is PEM, not {type(chain).__name__}")
            try:
                credential = chain_from_pem(chain.encode("ascii") if isinstance(chain, str) else chain)
            except (PeerError, UnicodeEncodeError) as error:
                raise UsageError(f"this certificate cannot be used: {error}") from error
            self._reminded.pop(certificates.use(credential, self._context.now), None)
        await self._publication.replenish()
        await asyncio.gather(*(self._renew(room) for room in self._rooms.all.values()))

    def look(self) -> None:
        """Remind the application of certificates that expire; replace outdated leaves."""
        now = self._context.now
        for due in self._context.device.certificates.due(now):
            last = self._reminded.get(due.scheme)
            if last is None or not 0 <= now - last < DAY:
                self._reminded[due.scheme] = now
                self._context.fire("mls_certificate_expires", due)
        for room in self._rooms.all.values():
            if room.group.sending.leaf_outdated:
                self._context.tasks.spawn(self._renew(room), f"renewing our leaf in {room.jid}")

    async def _renew(self, room: EncryptedRoom) -> None:
        if room.live and room.is_member:
            try:
                await room.renew_leaf()
            except MLSError as error:
                log.warning("%s: our leaf cannot be renewed: %s", room.jid, error)
