"""Vouchers between devices of our account: their publication, and the conditions for accepting them.

A voucher (:mod:`slixmpp_mls.policy.proofs`) is made when a user admits a device, and published in that device's item of
the account's node of devices.  The device finds the voucher there and keeps it in its store.  It carries the voucher in
each leaf with which it joins on its own, so any online member can let it in while the vouching device is away.

*What the server can do with it.*  The server can withhold a voucher.  The server cannot make one: only a key that is in
a group's tree vouches there.  A device that the server has added to the list has no voucher.

*For which key.*  The server may change the item at any time, so a voucher is made for keys with the caller's
fingerprint, if the caller gives one.

*What a device keeps.*  Of each other device that its account lists, the device keeps the voucher with the longest
validity, if it is signed by the key that is listed for that other device.  It keeps at most `MAX_VOUCHERS`, the first
ones.  A retired device vouches for no other device.

*Several at once.*  PubSub has no compare-and-set (XEP-0060).  Of two devices that read an item, put a voucher into it,
and publish it, the later one overwrites the earlier one's voucher.  A device that changes its own item does the same.
Therefore a device remembers the vouchers that it has published, as long as it runs, and looks for them whenever it
reads the node, as it does after each change.  A missing voucher is put back into the item as it is then, after a random
pause, and at most :data:`MOST_TIMES`.  It displaces no other voucher.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from ..client import Device as OwnDevice
from ..delivery import DeviceDirectory
from ..errors import DeliveryError, PeerError, UsageError
from ..identity import ClientIdentity, fingerprint
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.parameters import DAY, HOUR
from ..mls.structures.leaf_node import Lifetime
from ..policy import MAX_VOUCHERS, DeviceVoucher, vouches
from ..stanza import Device, Key, Voucher
from ..stanza.elements import MAX_KEYS
from .device_list import Listed, read_devices

__all__ = ["MOST_TIMES", "SPREAD", "VOUCHER_LIFETIME", "Vouching", "keep_vouchers"]

log = logging.getLogger(__name__)

VOUCHER_LIFETIME = 365 * DAY
"""Seconds for which a device uses a voucher from us."""

MOST_TIMES = 5
"""How often vouchers for one device are put back: a server that drops them has no more publications of us."""

SPREAD = 2.0
"""Seconds, the longest wait before that: others may put theirs back, too."""


@dataclass(slots=True)
class _Published:
    """Vouchers of ours in another device's item.

    :ivar vouchers: by the key that each one is for
    :ivar left: how often they may be put back
    """

    vouchers: Mapping[bytes, Voucher]
    left: int = MOST_TIMES

    def missing(self, device: Device) -> list[Voucher]:
        """Those that a device's item lacks, though it has the key that they are for, and place for them."""
        lacking = [
            voucher
            for key, voucher in self.vouchers.items()
            if Key(voucher.scheme, key) in device.keys and voucher not in device.vouchers
        ]
        return lacking[: max(0, MAX_KEYS - len(device.vouchers))]


class Vouching:
    """Publishes our vouchers for other devices of our account, and puts back those that others overwrite."""

    def __init__(self, node: DeviceDirectory, own: OwnDevice) -> None:
        self._node = node
        self._own = own
        self._published: dict[str, _Published] = {}

    async def vouch_for(self, device_id: str, now: int, expected: str | None = None) -> None:
        """Publish our voucher for a device.

        :param now: seconds since the Unix epoch
        :param expected: fingerprint of the key to vouch for; all listed keys if not given
        :raises UsageError: our account lists no such device (any more), or no key that we can vouch for has this
            fingerprint
        :raises DeliveryError: the node could not be read or written
        """
        async with self._node.changing:
            device = (await read_devices(self._node)).devices.get(device_id)
            if device is None:
                raise UsageError(f"our account lists no device {device_id}")
            await self.publish(device, now, expected)

    async def publish(self, listed: Device, now: int, expected: str | None = None) -> Device:
        """Publish our voucher in another device's item, in place of our earlier one.

        :param listed: the current item
        :param now: seconds since the Unix epoch
        :param expected: fingerprint of the key to vouch for; all listed keys if not given
        :returns: the new item
        :raises UsageError: no key that we can vouch for has this fingerprint
        :raises DeliveryError: it could not be published
        """
        made = self._make(listed, now, expected)
        schemes = {voucher.scheme for voucher in made.values()}
        ours = str(self._own.identity).encode()
        others = [
            voucher
            for voucher in listed.vouchers
            if voucher.scheme not in schemes or (read := _read(voucher)) is None or read.issuer != ours
        ]
        vouched = replace(listed, vouchers=(*made.values(), *others)[:MAX_KEYS])
        await self._node.publish(listed.id, vouched.to_stdlib())
        self._published[listed.id] = _Published(made)
        return vouched

    def _make(self, listed: Device, now: int, expected: str | None) -> dict[bytes, Voucher]:
        """Our vouchers by the key that each one is for."""
        who = ClientIdentity(self._own.identity.account, listed.id)
        lifetime = Lifetime(max(0, now - HOUR), now + VOUCHER_LIFETIME)
        made: dict[bytes, Voucher] = {}
        schemes: set[int] = set()
        for key in listed.keys:
            suite = _suite(self._own, key.scheme)
            # New leaves use the first key for a scheme.
            if suite is None or key.scheme in schemes or expected not in (None, fingerprint(key.data)):
                continue
            schemes.add(key.scheme)
            made[key.data] = Voucher(key.scheme, self._own.vouch_for(suite, who, key.data, lifetime).encode())
        if not made:
            raise UsageError(f"device {listed.id} is not listed with that key")
        return made

    def forget(self, device_id: str) -> None:
        """Put back no voucher for a device: our account has retired it."""
        self._published.pop(device_id, None)

    async def put_back(self, listed: Listed) -> None:
        """Look for our vouchers, and put back what is missing.

        :param listed: what our account lists
        :raises DeliveryError: the node could not be read, or a voucher not be written, which affects no other one; it
            is tried again at the next look
        """
        failure: DeliveryError | None = None
        for name, published in [*self._published.items()]:
            if name in listed.retired:
                self.forget(name)
            elif name in listed.devices and published.left and published.missing(listed.devices[name]):
                try:
                    await self._put_back(name, published)
                except DeliveryError as error:
                    failure = error
        if failure is not None:
            raise failure

    async def _put_back(self, name: str, published: _Published) -> None:
        await asyncio.sleep(random.uniform(0, SPREAD))  # noqa: S311
        async with self._node.changing:
            device = (await read_devices(self._node)).devices.get(name)
            if device is None or self._published.get(name) is not published:
                return  # we have retired it meanwhile, or vouched for it afresh
            missing = published.missing(device)
            if not missing:
                return
            published.left -= 1
            log.info("a voucher of ours for %s was overwritten, and is put back", name)
            await self._node.publish(name, replace(device, vouchers=(*device.vouchers, *missing)).to_stdlib())


def keep_vouchers(own: OwnDevice, devices: Mapping[str, Device], now: int) -> bool:
    """Keep the vouchers that other devices of our account have published for us; see the module.

    :param devices: those that our account lists, by id
    :param now: seconds since the Unix epoch
    :returns: whether there is a voucher that we did not have
    :raises StoreError: nothing has changed, for the current cipher suite
    """
    published = devices[own.identity.device].vouchers if own.identity.device in devices else ()
    news = False
    for suite in {each.signature_scheme: each for each in map(CipherSuite.get, own.suites)}.values():
        before = own.vouchers(suite, now)
        read = [_read(voucher) for voucher in published if voucher.scheme == suite.signature_scheme]
        best: dict[bytes, DeviceVoucher] = {}
        for voucher in _credible(own, suite, (*before, *(each for each in read if each is not None)), devices, now):
            known = best.get(voucher.issuer)
            if known is None or voucher.lifetime.not_after > known.lifetime.not_after:
                best[voucher.issuer] = voucher
        kept = tuple(best.values())[:MAX_VOUCHERS]
        if kept != before:
            own.keep_vouchers(suite, kept)
            news |= not set(kept) <= set(before)
    return news


def _credible(
    own: OwnDevice, suite: CipherSuite, vouchers: Iterable[DeviceVoucher], devices: Mapping[str, Device], now: int
) -> Iterator[DeviceVoucher]:
    key = own.signature_key(suite).public
    for voucher in vouchers:
        account, _, name = voucher.issuer.decode(errors="replace").partition("/")
        issuer = devices.get(name)
        if account != own.identity.account or name == own.identity.device or issuer is None:
            continue
        if not voucher.lifetime.not_before <= now <= voucher.lifetime.not_after:
            continue
        keys = [entry.data for entry in issuer.keys if entry.scheme == suite.signature_scheme]
        if any(vouches(suite, voucher, each, own.identity, key) for each in keys):
            yield voucher


def _suite(own: OwnDevice, scheme: int) -> CipherSuite | None:
    suites = map(CipherSuite.get, own.suites)
    return next((suite for suite in suites if suite.signature_scheme == scheme), None)


def _read(voucher: Voucher) -> DeviceVoucher | None:
    try:
        return DeviceVoucher.decode(voucher.data)
    except PeerError as error:
        log.debug("a voucher that cannot be read is ignored: %s", error)
        return None
