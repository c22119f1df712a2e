"""This device's certificate at work: put into KeyPackages and groups, and replaced before it ends.

A new certificate reaches others in two ways: KeyPackages with the old one are replaced in the directory, and a
Commit in each group brings a leaf with the new one (RFC 9420 12.4.2).  A group whose room can not be reached now gets
it when it can; until then the old leaf stays, and is as good as the old certificate.

From the last third of its time on the application is reminded, when the plugin starts and then once a day
(``mls_certificate_expires``): it has the request signed by its authority and brings the new certificate.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ..client.device.certificates import CertificateExpires
from ..errors import MLSError, PeerError, UsageError
from ..identity.certificates import chain_from_pem
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.parameters import DAY

if TYPE_CHECKING:
    from ..plugin import MLS
    from ..rooms.encrypted_room import EncryptedRoom

__all__ = ["CertificateExpires", "Renewal"]

log = logging.getLogger(__name__)


class Renewal:
    """The certificates of the plugin's device."""

    def __init__(self, plugin: MLS) -> None:
        self._plugin = plugin
        self._reminded: dict[int, int] = {}  # when, by signature scheme

    def request(self, suite: int | None) -> bytes:
        """See :meth:`MLS.certificate_request`."""
        device = self._plugin.device
        number = device.suites[0] if suite is None else suite
        if number not in device.suites:
            raise UsageError(f"cipher suite {number} is not one of ours")
        return device.certificates.request(CipherSuite.get(number).signature_scheme)

    async def use(self, chain: bytes | str | None) -> None:
        """See :meth:`MLS.use_certificate`."""
        certificates = self._plugin.device.certificates
        if chain is None:
            certificates.drop()
        else:
            try:
                credential = chain_from_pem(chain.encode() if isinstance(chain, str) else chain)
            except PeerError as error:
                raise UsageError(f"no certificate that can be used: {error}") from error
            self._reminded.pop(certificates.use(credential, self._plugin.now), None)
        await self._plugin.replenish()
        await asyncio.gather(*(self._renew(room) for room in self._plugin.groups.values()))

    def look(self) -> None:
        """Remind the application of what ends; mend leaves that are outdated."""
        now = self._plugin.now
        for due in self._plugin.device.certificates.due(now):
            last = self._reminded.get(due.scheme)
            if last is None or not 0 <= now - last < DAY:
                self._reminded[due.scheme] = now
                self._plugin.fire("mls_certificate_expires", due)
        for room in self._plugin.groups.values():
            if room.session.leaf_outdated:
                room.worker.spawn(self._renew(room), "renewing our leaf")

    async def _renew(self, room: EncryptedRoom) -> None:
        if room.live and room.is_member:
            try:
                await room.renew_leaf()
            except MLSError as error:
                log.warning("%s: our leaf can not be renewed: %s", room.room, error)
