"""The choice of a group's cipher suite, and the detection of downgrades by servers (RFC 9420 7.2, 10; RFC 9750 6.11).

Each device publishes KeyPackages for every suite that it supports, and lists these suites in each KeyPackage, under its
signature.  The best suite is the first of ours, in the order of the configuration, for which every device has a
KeyPackage.  If there is none, it is the first suite for which every account has a device with a KeyPackage.  Otherwise
it is the suite for which most accounts have one.  The devices that lack the suite are reported.

A server cannot change a KeyPackage, but it can withhold those of a certain suite, or return old ones.  Therefore the
suites that a device claims, in its KeyPackages and in its entry of the device list, are compared with the suites of its
KeyPackages.  A difference is a :class:`Suspicion`.  The device itself causes one only while its configuration changes,
or if it has been offline for longer than the lifetime of its KeyPackages.  Each suspicion is reported.  It counts as an
attack if it has made us choose a worse suite.  If a server withholds everything, the account seems to have no
devices; then none can be added, which is noticed too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from ..authentication.callbacks import Recent
from ..identity import ClientIdentity, normal_forms
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.registry import ProtocolVersion
from ..mls.structures.extensions import Extension
from ..mls.tree.leaf_validation import GroupRequirements, VerifiedKeyPackage
from ..runtime import Context
from .items import read_listed
from .reading import read_key_packages
from .selection import each_by_itself, pick, vouched_for

__all__ = ["Negotiation", "Offer", "Suspicion", "choose", "negotiate", "read_offers"]


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A device claims to support a cipher suite, and its server has no usable KeyPackage of it for that suite.

    :ivar device: full identity
    :ivar suite: number of the suite
    :ivar text: a description for users
    """

    device: str
    suite: int
    text: str


@dataclass(frozen=True, slots=True)
class Negotiation:
    """The cipher suites that some accounts support.

    :ivar suite: the number of the best cipher suite for them
    :ivar claimed: the best suite if all devices have what they claim to support
    :ivar lacking: for each of our suites, the devices (full identities) that cannot be in a group with it
    :ivar failed: reason for each account that has no usable device at all
    :ivar suspicions: KeyPackages that a server may be withholding
    """

    suite: int
    claimed: int
    lacking: Mapping[int, tuple[str, ...]]
    failed: Mapping[str, str]
    suspicions: tuple[Suspicion, ...] = ()

    @property
    def downgraded(self) -> tuple[Suspicion, ...]:
        """The suspicions that have prevented a better suite."""
        if self.claimed == self.suite:
            return ()
        return tuple(each for each in self.suspicions if each.suite == self.claimed)


@dataclass(slots=True)
class Offer:
    """The KeyPackages of one device in its account's directory.

    :ivar packages: a KeyPackage for each suite, vouched for by the Authentication Service
    :ivar claimed: the suites that the device claims to support, among those asked for
    :ivar refusals: reason for each suite whose KeyPackages are unusable
    """

    packages: dict[int, VerifiedKeyPackage] = field(default_factory=dict)
    claimed: set[int] = field(default_factory=set)
    refusals: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class Offers:
    """The offers of the devices of some accounts; `failed` as in :class:`Negotiation`."""

    devices: dict[ClientIdentity, Offer] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def suspicions(self) -> tuple[Suspicion, ...]:
        return tuple(
            Suspicion(str(client), suite, offer.refusals.get(suite, "it has no KeyPackage for it"))
            for client, offer in sorted(self.devices.items(), key=lambda each: str(each[0]))
            for suite in sorted(offer.claimed - offer.packages.keys())
        )


async def negotiate(
    context: Context,
    accounts: Iterable[str],
    suites: Sequence[int],
    extensions: tuple[Extension, ...],
    members: Iterable[ClientIdentity] | None = None,
) -> Negotiation:
    """Find the best suite for a group with these accounts.  Each suspicion also fires an event.

    :param accounts: bare JIDs, in any spelling; this device itself supports all of `suites`
    :param suites: the suites to choose from, the preferred one first
    :param extensions: the extensions of the group's GroupContext, which every device must support
    :param members: if given, consider only these devices of the accounts
    """
    # Nobody is added by these: they are not used up by it.
    offers = await read_offers(context, accounts, suites, extensions, Recent(1))
    if members is not None:
        wanted = (client for client in members if client != context.device.identity)
        offers.devices = {client: offers.devices.get(client, Offer()) for client in wanted}
    suspicions = offers.suspicions()
    for suspicion in suspicions:
        context.fire("mls_downgrade_suspected", suspicion)
    supported = {client: offer.packages.keys() for client, offer in offers.devices.items()}
    claimed = {client: offer.packages.keys() | offer.claimed for client, offer in offers.devices.items()}
    lacking = {
        suite: tuple(sorted(str(client) for client, has in supported.items() if suite not in has)) for suite in suites
    }
    return Negotiation(choose(supported, suites), choose(claimed, suites), lacking, offers.failed, suspicions)


def choose(supported: Mapping[ClientIdentity, Collection[int]], preference: Sequence[int]) -> int:
    """The best suite for these devices, as the module defines it.

    :param supported: the suites of each device
    :param preference: our suites, the preferred one first
    """
    for suite in preference:
        if all(suite in has for has in supported.values()):
            return suite
    accounts = {client.account for client in supported}
    reached = Counter[int]()
    for suite in preference:
        reached[suite] = len({client.account for client, has in supported.items() if suite in has})
        if reached[suite] == len(accounts):
            return suite
    return max(preference, key=lambda suite: (reached[suite], -preference.index(suite)))


async def read_offers(
    context: Context,
    accounts: Iterable[str],
    suites: Sequence[int],
    extensions: tuple[Extension, ...],
    used: Recent[bytes, None] | None = None,
) -> Offers:
    """Read the offers of these accounts' directories for a group; this device itself is left out.

    The accounts are queried concurrently, each for :data:`.selection.PATIENCE` seconds at most.

    :param accounts: bare JIDs, in any spelling
    :param used: where the KeyPackages that are returned are noted as used; those of the context if not given
    """
    used = context.used_key_packages if used is None else used
    offers = Offers()
    requirements = {
        suite: GroupRequirements.of(CipherSuite.get(suite), ProtocolVersion.MLS10, extensions) for suite in suites
    }
    wanted, offers.failed = normal_forms(accounts)
    owners = dict.fromkeys(account.partition("/")[0] for account in wanted)
    reads = {account: partial(_read, context, account, requirements, offers, used) for account in owners}
    offers.failed |= await each_by_itself(reads)
    offers.devices.pop(context.device.identity, None)
    return offers


async def _read(
    context: Context,
    account: str,
    requirements: Mapping[int, GroupRequirements],
    offers: Offers,
    used: Recent[bytes, None],
) -> None:
    me = context.device.identity
    listed = await read_listed(context.devices, account)
    found = await read_key_packages(context, account, listed, requirements, lambda client: client != me)
    devices: dict[ClientIdentity, Offer] = {}
    for (client, suite), packages in found.usable.items():
        offer = devices.setdefault(client, Offer())
        genuine = await vouched_for(context.authentication, CipherSuite.get(suite), packages)
        offer.packages[suite] = pick(genuine, used)
        for package in packages:  # RFC 9420 7.2: signed by the device, in each of its KeyPackages
            offer.claimed |= requirements.keys() & set(package.leaf.capabilities.cipher_suites)
    await _authenticate(context, devices)
    for name, device in listed.items():
        offer = devices.setdefault(ClientIdentity(account, name), Offer())
        offer.claimed |= requirements.keys() & {count.suite for count in device.key_packages}
        schemes = {key.scheme for key in device.keys}
        for scheme in schemes:
            suites = {suite for suite in requirements if CipherSuite.get(suite).signature_scheme == scheme}
            if not suites & offer.packages.keys():  # a listed key without a KeyPackage of any suite
                offer.claimed |= suites
    if not devices:
        refused = sorted({reason for reasons in found.refusals.values() for reason in reasons})
        reason = "; ".join(refused[:3])
        offers.failed[account] = reason or "no KeyPackages: no client of this account supports MLS"
    offers.devices |= devices


async def _authenticate(context: Context, devices: Mapping[ClientIdentity, Offer]) -> None:
    """Drop the KeyPackages that the Authentication Service does not vouch for."""
    for suite in {suite for offer in devices.values() for suite in offer.packages}:
        having = [offer for offer in devices.values() if suite in offer.packages]
        leaves = [offer.packages[suite].leaf for offer in having]
        verdicts = await context.authentication.validate(leaves, CipherSuite.get(suite))
        for offer, verdict in zip(having, verdicts, strict=True):
            if not verdict.is_valid:
                del offer.packages[suite]
                offer.refusals[suite] = verdict.text
