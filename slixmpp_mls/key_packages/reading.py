"""Reads KeyPackages of an account from its directory: as few as will do.

A directory holds up to hundreds of KeyPackages, of 0.4 to 18 kB each, and whoever adds a device needs one.  A server
hands out items by their ids, and a device says in its entry of the account's list of devices which ids it uses: a fixed
number for each cipher suite (:class:`.items.Place`).  So a reader asks for one random number of each device and suite:

1. one item of each; again, at most :data:`ROUNDS` times in all, for those that are not there, are not acceptable, have
   another key than the list has for the device, or were picked before;
2. the KeyPackage of last resort, for those still without one;
3. everything in the directory, if that gives a device nothing for a suite that it says it supports.  The same is done
   for an account with a device in its list that does not say how many KeyPackages it has.

An account whose devices are authenticated otherwise (X.509) may have no list of devices.  Then the KeyPackages of last
resort are read, one for each device and suite, whose ids name both.  Each number that is asked for next is random below
the last one, until one is there: it is as likely as any other below the device's number of KeyPackages, which we do not
know.  Everything is read if only one was found that was picked before, or if the Authentication Service does not vouch
for what was found.

Two clients that add a device at the same time pick the same KeyPackage as seldom as if they had read all of them.  A
server that withholds something gains nothing: it makes us read everything, and what is missing then is reported.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import PeerError
from ..identity import ClientIdentity
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.tree.leaf_validation import GroupRequirements, LeafRules, VerifiedKeyPackage
from ..runtime import Context
from ..stanza import Device
from ..stanza.xml import AnyElement
from .items import Place, parse_item, parse_key_package, verify_item

__all__ = ["Found", "read_key_packages"]

log = logging.getLogger(__name__)

ROUNDS = 3
"""Ordinary KeyPackages of one device and suite that are asked for, at most."""
_GUESS = 64
"""The first number for a device that does not say how many it has is below this."""
_IDS = 50  # in one request, whose answer stays far below the limit between servers (512 kB) in suites such as 0xF001
_IDS_MLDSA = 10  # the same in suites whose KeyPackages have up to 24 kB in base64
_MOST = 2000  # pairs of a device and a suite that are asked for one by one; beyond that, everything is read
_AT_ONCE = 20  # KeyPackages that are verified before other tasks get a turn


@dataclass(slots=True)
class Found:
    """What was read of one account's directory.

    :ivar usable: verified KeyPackages by device and cipher suite
    :ivar refusals: reasons why others are not, by the device that they claim to be of
    :ivar empty: whether there was nothing at all
    """

    usable: dict[tuple[ClientIdentity, int], list[VerifiedKeyPackage]] = field(default_factory=dict)
    refusals: dict[ClientIdentity | None, set[str]] = field(default_factory=dict)
    empty: bool = True


async def read_key_packages(
    context: Context,
    account: str,
    listed: Mapping[str, Device],
    requirements: Mapping[int, GroupRequirements],
    wanted: Callable[[ClientIdentity], bool] = lambda _: True,
) -> Found:
    """Read KeyPackages of an account's devices.

    :param account: bare JID
    :param listed: the account's list of devices, by id
    :param requirements: of the group, by the number of a cipher suite
    :param wanted: whether a device's KeyPackages are needed
    :returns: perhaps also those of devices that are not wanted
    :raises DeliveryError: the directory could not be read
    """
    reading = _Reading(context, account, listed, requirements)
    if listed and all(device.key_packages for device in listed.values()):
        places = {
            (name, count.suite): count.count
            for name, device in listed.items()
            if wanted(ClientIdentity(account, name))
            for count in device.key_packages
            if count.suite in requirements
        }
        if len(places) <= _MOST and await reading.sample(places):
            return reading.found
    elif not listed and await reading.sample_unlisted(wanted):
        return reading.found
    await reading.take(await context.key_packages.items(account))
    return reading.found


class _Reading:
    def __init__(
        self,
        context: Context,
        account: str,
        listed: Mapping[str, Device],
        requirements: Mapping[int, GroupRequirements],
    ) -> None:
        self.found = Found()
        self._context = context
        self._account = account
        self._listed = listed
        self._requirements = requirements
        self._rules: LeafRules = context.device.leaf_rules(context.now)

    async def sample(self, counts: Mapping[tuple[str, int], int]) -> bool:
        """Read what the devices say they have: steps 1 and 2 of the module.

        :param counts: the number of ordinary KeyPackages, by device and suite
        :returns: whether there is a KeyPackage for each of them, and for each suite that the devices claim
        """
        await self._draw({pair: random.sample(range(count), min(ROUNDS, count)) for pair, count in counts.items()})
        await self._ask(Place(*pair) for pair in counts if not self._has_fresh(*pair))
        return all(self._has(*pair) for pair in counts) and not self._claims_more(counts)

    async def sample_unlisted(self, wanted: Callable[[ClientIdentity], bool]) -> bool:
        """Read KeyPackages of devices of which nothing is known yet.

        :returns: whether there is a genuine KeyPackage for each of them, and for each suite that the devices claim
        """
        items = await self._context.key_packages.last_resort_items(self._account)
        places = [place for each in items if (place := Place.of(each)) is not None]
        if len(places) < len(items) or len(places) > _MOST:
            return False  # other software
        await self.take(items)
        pairs = {
            (place.device, place.suite): _descent()
            for place in places
            if place.suite in self._requirements and wanted(ClientIdentity(self._account, place.device))
        }
        await self._draw(pairs)
        if any(self._has_only_used(*pair) for pair in pairs):
            return False  # there may be others above the used one
        return bool(pairs) and not self._claims_more(pairs) and await self._are_genuine(pairs)

    async def _draw(self, numbers: Mapping[tuple[str, int], Sequence[int]]) -> None:
        """Ask for these numbers of each device and suite, one after the other, until there is a fresh KeyPackage."""
        for round_ in range(max(map(len, numbers.values()), default=0)):
            places = [Place(*pair, each[round_]) for pair, each in numbers.items() if round_ < len(each)]
            await self._ask(place for place in places if not self._has_fresh(place.device, place.suite))

    async def _ask(self, places: Iterable[Place]) -> None:
        large: list[str] = []
        small: list[str] = []
        for place in places:
            is_large = CipherSuite.get(place.suite).signatures_are_post_quantum
            (large if is_large else small).append(place.item_id)
        for ids, most in ((small, _IDS), (large, _IDS_MLDSA)):
            for begin in range(0, len(ids), most):
                await self.take(await self._context.key_packages.items(self._account, ids[begin : begin + most]))

    async def _are_genuine(self, pairs: Iterable[tuple[str, int]]) -> bool:
        """Whether the Authentication Service vouches for a KeyPackage of each of these devices and suites."""
        for device, suite in pairs:
            leaves = {each.leaf.signature_key: each.leaf for each in self._ones_of(device, suite)}
            verdicts = await self._context.authentication.validate(list(leaves.values()), CipherSuite.get(suite))
            if not any(verdict.is_valid for verdict in verdicts):
                return False
        return True

    async def take(self, items: Mapping[str, AnyElement]) -> None:
        """Verify items."""
        for number, (item_id, element) in enumerate(items.items()):
            self.found.empty = False
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)  # verifying a full node must not block other tasks
            try:
                item = parse_item(element)
                if item.suite not in self._requirements:
                    continue
                package = verify_item(item_id, item, self._account, self._requirements[item.suite], self._rules)
                known = self.found.usable.setdefault((ClientIdentity.from_leaf(package.leaf), item.suite), [])
                if all(package.reference != each.reference for each in known):
                    known.append(package)
            except PeerError as error:
                self.found.refusals.setdefault(_claimed(element, self._account), set()).add(str(error))

    def _ones_of(self, device: str, suite: int) -> Iterable[VerifiedKeyPackage]:
        """Those of a device; if it is listed, with a key that is listed for it."""
        packages = self.found.usable.get((ClientIdentity(self._account, device), suite), [])
        if device not in self._listed:
            return packages
        keys = {key.data for key in self._listed[device].keys}
        return (package for package in packages if package.leaf.signature_key in keys)

    def _has(self, device: str, suite: int) -> bool:
        return any(True for _ in self._ones_of(device, suite))

    def _has_fresh(self, device: str, suite: int) -> bool:
        used = self._context.used_key_packages
        return any(not each.last_resort and each.reference not in used for each in self._ones_of(device, suite))

    def _has_only_used(self, device: str, suite: int) -> bool:
        ordinary = any(not each.last_resort for each in self._ones_of(device, suite))
        return ordinary and not self._has_fresh(device, suite)

    def _claims_more(self, pairs: Collection[tuple[str, int]]) -> bool:
        """Whether a device's leaf lists a suite for which it says that it has no KeyPackages (RFC 9420 7.2)."""
        return any(
            (device, claimed) not in pairs
            for device, suite in pairs
            for package in self._ones_of(device, suite)
            for claimed in self._requirements.keys() & set(package.leaf.capabilities.cipher_suites)
        )


def _descent() -> list[int]:
    """Random numbers, each below the one before: the first of them below any limit is uniformly distributed there."""
    numbers = [_GUESS]
    while numbers[-1]:
        numbers.append(random.randrange(numbers[-1]))  # noqa: S311  # not a secret
    return numbers[1:]


def _claimed(element: AnyElement, account: str) -> ClientIdentity | None:
    """The device of the account that an item claims to belong to; not verified."""
    try:
        client = ClientIdentity.from_leaf(parse_key_package(element).leaf_node)
    except PeerError:
        return None
    return client if client.account == account else None
