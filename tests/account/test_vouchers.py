"""Vouchers of our account's devices: published in the item, believed as far as a key of the account proves them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slixmpp_mls.account.device_list import read_devices
from slixmpp_mls.account.vouchers import VOUCHER_LIFETIME, keep_vouchers, vouch_for
from slixmpp_mls.errors import UsageError
from slixmpp_mls.identity import fingerprint
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.policy import MAX_VOUCHERS, DeviceVoucher, vouches
from slixmpp_mls.stanza import Device, Key, Voucher
from slixmpp_mls.testing import NOW

from ..client.people import ALICE
from ..services import Client
from .test_devices import Account, name

SUITE = CipherSuite.get(1)
SCHEME = SUITE.signature_scheme


async def listed(client: Client) -> dict[str, Device]:
    return (await read_devices(client.context.devices)).devices


def kept(client: Client, now: int = NOW) -> list[str]:
    """The devices whose vouchers a client carries."""
    return [each.issuer.decode().partition("/")[2] for each in client.device.vouchers(SUITE, now)]


async def test_a_device_that_is_admitted_finds_its_voucher_and_keeps_it() -> None:
    account = Account()
    phone, laptop = account.phone, account.laptop
    await account.publish(phone, laptop)
    before = (await listed(phone))[name(laptop)]
    await account.devices.admit(name(laptop), laptop.context.fingerprint)
    item = (await listed(phone))[name(laptop)]
    assert replace(item, vouchers=()) == before
    (voucher,) = [DeviceVoucher.decode(each.data) for each in item.vouchers if each.scheme == SCHEME]
    key, issuer = laptop.device.signature_key(SUITE).public, phone.device.signature_key(SUITE).public
    assert vouches(SUITE, voucher, issuer, laptop.device.identity, key)
    assert keep_vouchers(laptop.device, await listed(laptop), NOW)
    assert kept(laptop) == [name(phone)]
    assert not keep_vouchers(laptop.device, await listed(laptop), NOW)
    # Its own next publication keeps what others have put there.
    await laptop.context.authentication.issue(laptop.device.identity, laptop.device.signature_keys(), label="Laptop")
    item = (await listed(phone))[name(laptop)]
    assert (item.label, len(item.vouchers)) == ("Laptop", len(before.keys))
    # To admit it again is to vouch anew, not twice.
    await account.devices.admit(name(laptop))
    assert len((await listed(phone))[name(laptop)].vouchers) == len(before.keys)


async def test_nobody_vouches_for_another_key_than_the_one_that_was_shown() -> None:
    account = Account()
    await account.publish(account.phone, account.laptop)
    with pytest.raises(UsageError, match="that key"):
        await account.devices.admit(name(account.laptop), account.phone.context.fingerprint)
    assert not (await listed(account.phone))[name(account.laptop)].vouchers
    # The account's server exchanges the key after the person has looked.
    own, directory = account.phone.device, account.phone.context.devices
    forged = Device(name(account.laptop), (Key(SCHEME, bytes(32)),))
    with pytest.raises(UsageError, match="that key"):
        await vouch_for(directory, own, forged, NOW, account.laptop.context.fingerprint)
    vouched = await vouch_for(directory, own, forged, NOW, fingerprint(bytes(32)))
    assert [voucher.scheme for voucher in vouched.vouchers] == [SCHEME]


async def test_what_no_key_of_the_account_has_signed_is_not_kept() -> None:
    """A server that writes into the node: garbage, vouchers of its own, and those for other keys or devices."""
    account = Account()
    phone, laptop, mallory = account.phone, account.laptop, Account()
    await account.publish(phone, laptop)
    devices = await listed(phone)
    stranger = await vouch_for(mallory.phone.context.devices, mallory.phone.device, devices[name(laptop)], NOW)
    other = await vouch_for(
        phone.context.devices, phone.device, replace(devices[name(laptop)], keys=(Key(SCHEME, bytes(32)),)), NOW
    )
    in_her_name = str(phone.device.identity).encode()
    as_phone = [
        Voucher(each.scheme, replace(DeviceVoucher.decode(each.data), issuer=in_her_name).encode())
        for each in stranger.vouchers
    ]
    found = (Voucher(SCHEME, b"garbage"), *stranger.vouchers, *other.vouchers, *as_phone)
    devices[name(laptop)] = replace(devices[name(laptop)], vouchers=found)
    assert not keep_vouchers(laptop.device, devices, NOW)
    assert kept(laptop) == []


async def test_a_voucher_ends_with_its_time_and_with_its_issuer() -> None:
    account = Account()
    phone, laptop = account.phone, account.laptop
    await account.publish(phone, laptop)
    await account.devices.admit(name(laptop))
    devices = await listed(laptop)
    assert keep_vouchers(laptop.device, devices, NOW)
    later = NOW + VOUCHER_LIFETIME + 1
    assert kept(laptop, later) == []
    assert not keep_vouchers(laptop.device, devices, later)
    del devices[name(phone)]  # retired
    assert not keep_vouchers(laptop.device, devices, NOW)
    assert kept(laptop) == []


async def test_no_more_are_kept_than_a_leaf_has_place_for_the_first_ones_stay() -> None:
    account = Account()
    laptop = account.laptop
    more = (Client(account.phone.world.person(ALICE), account.phone) for _ in range(MAX_VOUCHERS))
    others = [account.phone, *more]
    await account.publish(laptop, *others)
    for number, other in enumerate(others, 1):
        devices = await listed(laptop)
        await vouch_for(laptop.context.devices, other.device, devices[name(laptop)], NOW)
        assert keep_vouchers(laptop.device, await listed(laptop), NOW) == (number <= MAX_VOUCHERS)
    assert kept(laptop) == [name(other) for other in others[:MAX_VOUCHERS]]
