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
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from ..client import Device as OwnDevice
from ..delivery import DeviceDirectory
from ..errors import PeerError, UsageError
from ..identity import ClientIdentity, fingerprint
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.parameters import DAY, HOUR
from ..mls.structures.leaf_node import Lifetime
from ..policy import MAX_VOUCHERS, DeviceVoucher, vouches
from ..stanza import Device, Voucher
from ..stanza.elements import MAX_KEYS

__all__ = ["VOUCHER_LIFETIME", "keep_vouchers", "vouch_for"]

log = logging.getLogger(__name__)

VOUCHER_LIFETIME = 365 * DAY
"""Seconds for which a device uses a voucher from us."""


async def vouch_for(
    node: DeviceDirectory, own: OwnDevice, listed: Device, now: int, expected: str | None = None
) -> Device:
    """Publish our voucher in another device's item, in place of our earlier one.

    :param listed: the current item
    :param now: seconds since the Unix epoch
    :param expected: fingerprint of the key to vouch for; all listed keys if not given
    :returns: the new item
    :raises UsageError: no key that we can vouch for has this fingerprint
    :raises DeliveryError: it could not be published
    """
    who = ClientIdentity(own.identity.account, listed.id)
    lifetime = Lifetime(max(0, now - HOUR), now + VOUCHER_LIFETIME)
    made: list[Voucher] = []
    schemes: set[int] = set()
    for key in listed.keys:
        suite = _suite(own, key.scheme)
        # New leaves use the first key for a scheme.
        if suite is None or key.scheme in schemes or expected not in (None, fingerprint(key.data)):
            continue
        schemes.add(key.scheme)
        voucher = own.vouch_for(suite, who, key.data, lifetime)
        made.append(Voucher(key.scheme, voucher.encode()))
    if not made:
        raise UsageError(f"device {listed.id} is not listed with that key")
    ours = str(own.identity).encode()
    others = [
        voucher
        for voucher in listed.vouchers
        if voucher.scheme not in schemes or (read := _read(voucher)) is None or read.issuer != ours
    ]
    vouched = replace(listed, vouchers=(*made, *others)[:MAX_KEYS])
    await node.publish(listed.id, vouched.to_stdlib())
    return vouched


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
