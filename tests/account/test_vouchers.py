"""Vouchers of our account's devices: published in the item, believed as far as a key of the account proves them."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from xml.etree.ElementTree import Element

import pytest

from slixmpp_mls.account import devices as devices_module
from slixmpp_mls.account import vouchers
from slixmpp_mls.account.device_list import read_devices
from slixmpp_mls.account.vouchers import MOST_TIMES, VOUCHER_LIFETIME, Vouching, keep_vouchers
from slixmpp_mls.errors import DeliveryError, Refused, UsageError
from slixmpp_mls.identity import fingerprint
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.policy import MAX_VOUCHERS, DeviceVoucher, vouches
from slixmpp_mls.stanza import Device, Key, RetiredDevice, Voucher
from slixmpp_mls.stanza.elements import MAX_KEYS
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
        await Vouching(directory, own).publish(forged, NOW, account.laptop.context.fingerprint)
    vouched = await Vouching(directory, own).publish(forged, NOW, fingerprint(bytes(32)))
    assert [voucher.scheme for voucher in vouched.vouchers] == [SCHEME]


async def test_what_no_key_of_the_account_has_signed_is_not_kept() -> None:
    """A server that writes into the node: garbage, vouchers of its own, and those for other keys or devices."""
    account = Account()
    phone, laptop, mallory = account.phone, account.laptop, Account()
    await account.publish(phone, laptop)
    devices = await listed(phone)
    stranger = await Vouching(mallory.phone.context.devices, mallory.phone.device).publish(devices[name(laptop)], NOW)
    with_other_key = replace(devices[name(laptop)], keys=(Key(SCHEME, bytes(32)),))
    other = await Vouching(phone.context.devices, phone.device).publish(with_other_key, NOW)
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
        await Vouching(laptop.context.devices, other.device).publish(devices[name(laptop)], NOW)
        assert keep_vouchers(laptop.device, await listed(laptop), NOW) == (number <= MAX_VOUCHERS)
    assert kept(laptop) == [name(other) for other in others[:MAX_VOUCHERS]]


# --- several at once -------------------------------------------------------------------------------


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vouchers, "SPREAD", 0.0)


def vouching(client: Client) -> Vouching:
    return Vouching(client.context.devices, client.device)


async def issuers(client: Client, of: Client) -> set[str]:
    """The devices whose vouchers for a device are published."""
    published = (await listed(client))[name(of)].vouchers
    return {DeviceVoucher.decode(voucher.data).issuer.decode().partition("/")[2] for voucher in published}


class Pen:
    """Holds a device's publications back, after it has read what it is about to change.

    :ivar waits: whether one waits
    """

    def __init__(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits, self._free = asyncio.Event(), asyncio.Event()
        directory = client.context.devices
        publish = directory.publish

        async def late(item_id: str, element: Element) -> None:
            self.waits.set()
            await self._free.wait()
            await publish(item_id, element)

        monkeypatch.setattr(directory, "publish", late)

    def let_go(self) -> None:
        self._free.set()


@pytest.mark.usefixtures("at_once")
async def test_of_two_devices_that_vouch_at_once_neither_loses_its_voucher(monkeypatch: pytest.MonkeyPatch) -> None:
    """XEP-0060 has no compare-and-set: both have read the item before either of them publishes it."""
    account = Account()
    phone, laptop = account.phone, account.laptop
    tablet = Client(phone.world.person(ALICE), phone)
    await account.publish(phone, laptop, tablet)
    by_phone, by_laptop = vouching(phone), vouching(laptop)
    pen = Pen(laptop, monkeypatch)
    second = asyncio.create_task(by_laptop.vouch_for(name(tablet), NOW))
    await pen.waits.wait()
    await by_phone.vouch_for(name(tablet), NOW)
    pen.let_go()
    await second
    assert await issuers(phone, tablet) == {name(laptop)}  # the phone's is overwritten
    await by_laptop.put_back(await read_devices(laptop.context.devices))
    await by_phone.put_back(await read_devices(phone.context.devices))
    assert await issuers(phone, tablet) == {name(phone), name(laptop)}
    written = phone.context.devices.publications, laptop.context.devices.publications
    for each, node in ((by_phone, phone.context.devices), (by_laptop, laptop.context.devices)):
        await each.put_back(await read_devices(node))
    assert (phone.context.devices.publications, laptop.context.devices.publications) == written
    assert keep_vouchers(tablet.device, await listed(tablet), NOW)
    assert set(kept(tablet)) == {name(phone), name(laptop)}


@pytest.mark.usefixtures("at_once")
async def test_two_devices_that_put_theirs_back_at_once_do_it_again_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    account = Account()
    phone, laptop = account.phone, account.laptop
    tablet = Client(phone.world.person(ALICE), phone)
    await account.publish(phone, laptop, tablet)
    bare = (await listed(phone))[name(tablet)]
    both = {name(phone): vouching(phone), name(laptop): vouching(laptop)}
    for each in both.values():
        await each.vouch_for(name(tablet), NOW)
    await phone.context.devices.publish(name(tablet), bare.to_stdlib())  # its own publication, made at the same time
    pen = Pen(laptop, monkeypatch)
    second = asyncio.create_task(both[name(laptop)].put_back(await read_devices(laptop.context.devices)))
    await pen.waits.wait()
    await both[name(phone)].put_back(await read_devices(phone.context.devices))
    pen.let_go()
    await second
    assert await issuers(phone, tablet) == {name(laptop)}
    await both[name(phone)].put_back(await read_devices(phone.context.devices))
    assert await issuers(phone, tablet) == {name(phone), name(laptop)}


@pytest.mark.usefixtures("at_once")
async def test_a_look_at_the_node_puts_a_voucher_back_but_not_without_end() -> None:
    """A server that drops it each time has a bounded number of publications of us."""
    account = Account()
    phone, laptop = account.phone, account.laptop
    await account.publish(phone, laptop)
    before = (await listed(phone))[name(laptop)].to_stdlib()
    await account.devices._look()
    await account.devices.admit(name(laptop))
    for number in range(MOST_TIMES + 3):
        await laptop.context.devices.publish(name(laptop), before)
        await account.devices._look()
        assert bool(await issuers(phone, laptop)) is (number < MOST_TIMES)
    await account.devices.admit(name(laptop))  # our user wants it
    assert await issuers(phone, laptop) == {name(phone)}


@pytest.mark.usefixtures("at_once")
async def test_a_voucher_is_not_put_back_for_another_key_or_in_place_of_another_one() -> None:
    account = Account()
    phone, laptop = account.phone, account.laptop
    await account.publish(phone, laptop)
    item = (await listed(phone))[name(laptop)]
    ours = vouching(phone)
    await ours.vouch_for(name(laptop), NOW)
    full = tuple(Voucher(SCHEME, bytes([number])) for number in range(MAX_KEYS))
    for changed in (replace(item, keys=(Key(SCHEME, bytes(32)),)), replace(item, vouchers=full)):
        await phone.context.devices.publish(name(laptop), changed.to_stdlib())
        await ours.put_back(await read_devices(phone.context.devices))
        assert (await listed(phone))[name(laptop)] == changed
    await phone.context.devices.publish(name(laptop), RetiredDevice(name(laptop), item.added).to_stdlib())  # type: ignore[arg-type]
    await ours.put_back(await read_devices(phone.context.devices))
    await phone.context.devices.publish(name(laptop), item.to_stdlib())
    await ours.put_back(await read_devices(phone.context.devices))
    assert (await listed(phone))[name(laptop)] == item  # whom our account has retired we vouch for no more


async def test_a_marker_that_a_voucher_overwrites_is_there_again_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of our devices retires a stolen one, while another vouches for it, having read the list just before."""
    account = Account()
    phone, laptop = account.phone, account.laptop
    stolen = Client(phone.world.person(ALICE), phone)
    await account.publish(phone, laptop, stolen)
    await account.devices._look()
    await account.devices.admit(name(stolen))
    pen = Pen(laptop, monkeypatch)
    second = asyncio.create_task(vouching(laptop).vouch_for(name(stolen), NOW))
    await pen.waits.wait()
    await account.devices.retire(name(stolen))
    pen.let_go()
    await second
    assert name(stolen) in await listed(phone)
    await account.devices._look()
    assert name(stolen) not in await listed(phone)
    # The thief lists it again at once, between our looks, and gets no voucher of ours.
    await account.publish(stolen)
    await account.devices._look()
    assert not (await listed(phone))[name(stolen)].vouchers
    phone.monotonic += devices_module.RETRY_AT_MOST
    # The thief lists it again and again.  Each time one of our looks finds it, after a pause.
    for _ in range(3):
        await account.publish(stolen)
        for _ in range(4):
            await account.devices._look()
            phone.monotonic += devices_module.LOOK
        assert name(stolen) in (await read_devices(phone.context.devices)).retired
        assert name(stolen) not in await listed(phone)


class Halt:
    """Holds back whoever is about to put a voucher back, in the pause before it reads the node."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits, self._free, sleep = asyncio.Event(), asyncio.Event(), asyncio.sleep

        async def pause(seconds: float) -> None:
            if seconds == _PAUSE:
                self.waits.set()
                await self._free.wait()
            await sleep(0)

        monkeypatch.setattr(random, "uniform", lambda *_: _PAUSE)
        monkeypatch.setattr(asyncio, "sleep", pause)

    def let_go(self) -> None:
        self._free.set()


_PAUSE = 1.25


async def two_vouchers_are_gone() -> tuple[Client, Client, Client, Vouching]:
    """Three devices: the first one has vouched for the others, and both have overwritten that."""
    account = Account()
    phone, laptop = account.phone, account.laptop
    tablet = Client(phone.world.person(ALICE), phone)
    await account.publish(phone, laptop, tablet)
    bare = {name(each): (await listed(phone))[name(each)].to_stdlib() for each in (laptop, tablet)}
    ours = vouching(phone)
    for each in (laptop, tablet):
        await ours.vouch_for(name(each), NOW)
        await phone.context.devices.publish(name(each), bare[name(each)])
    return phone, laptop, tablet, ours


@pytest.mark.parametrize("which", ["the one", "the other one"])
async def test_no_voucher_is_put_back_for_a_device_that_is_retired_meanwhile(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one voucher is about to be put back, its device is retired, or another one."""
    phone, laptop, tablet, ours = await two_vouchers_are_gone()
    halt = Halt(monkeypatch)
    looking = asyncio.create_task(ours.put_back(await read_devices(phone.context.devices)))
    await halt.waits.wait()
    ours.forget(name(laptop if which == "the one" else tablet))  # and it is listed again at once
    halt.let_go()
    await looking
    assert await issuers(phone, laptop) == (set() if which == "the one" else {name(phone)})
    assert await issuers(phone, tablet) == ({name(phone)} if which == "the one" else set())


@pytest.mark.usefixtures("at_once")
async def test_a_voucher_that_is_refused_keeps_none_back(monkeypatch: pytest.MonkeyPatch) -> None:
    phone, laptop, tablet, ours = await two_vouchers_are_gone()
    node = phone.context.devices
    publish, refused = node.publish, 0

    async def choosy(item_id: str, element: Element) -> None:
        nonlocal refused
        if item_id == name(laptop):
            refused += 1
            raise Refused(ALICE, "not-acceptable")
        await publish(item_id, element)

    monkeypatch.setattr(node, "publish", choosy)
    for _ in range(MOST_TIMES + 3):
        with suppress(DeliveryError):
            await ours.put_back(await read_devices(node))
        assert await issuers(phone, tablet) == {name(phone)}
    assert refused == MOST_TIMES


@pytest.mark.usefixtures("at_once")
async def test_a_voucher_that_is_put_back_does_not_replace_a_marker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our user retires the device while our own voucher for it is on its way."""
    account = Account()
    phone, laptop = account.phone, account.laptop
    await account.publish(phone, laptop)
    await account.devices._look()
    bare = (await listed(phone))[name(laptop)].to_stdlib()
    await account.devices.admit(name(laptop))
    await phone.context.devices.publish(name(laptop), bare)
    pen = Pen(phone, monkeypatch)
    looking = asyncio.create_task(account.devices._look())
    await pen.waits.wait()
    monkeypatch.undo()
    retiring = asyncio.create_task(account.devices.retire(name(laptop)))
    for _ in range(20):
        await asyncio.sleep(0)
    pen.let_go()
    await asyncio.gather(looking, retiring)
    read = await read_devices(phone.context.devices)
    assert (name(laptop) in read.retired, name(laptop) in read.devices) == (True, False)
