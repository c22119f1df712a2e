"""Finding the devices that can be added to a group: from bare JIDs to verified KeyPackages.

For each account its directory is read, everything in it is verified as if a stranger had
written it (the server may have), one KeyPackage is picked for each device at random (PEP can not hand
one out only once, so that two who add at the same time should seldom meet), none that we have picked
before, one of last resort only if there is nothing else, and the Authentication Service is asked about the leaf.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..authentication.callbacks import Recent
from ..client import RoomGroup, open_key_package
from ..errors import DeliveryError, InvalidError, MalformedError, PeerError
from ..identity import ClientIdentity
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.structures.credential import type_of
from ..mls.tree.leaf_validation import GroupRequirements, LeafRules, VerifiedKeyPackage
from ..mls.tree.tree_index import Feature
from ..stanza import KeyPackage, parse
from ..stanza.xml import AnyElement

if TYPE_CHECKING:
    from ..plugin import MLS

__all__ = ["Candidates", "find_candidates", "open_item", "pick", "read_items", "vouched_for"]

_READ = 300  # KeyPackages per account, at first: those of two devices
_READ_MORE = 600  # if there are more; some servers do not carry to others what would exceed half a megabyte


@dataclass(slots=True)
class Candidates:
    """What was found of some accounts.

    :ivar packages: a KeyPackage for each device that can be added
    :ivar failed: reason for each account of which no device can be added
    :ivar skipped: reason for each device (full identity) that can not
    """

    packages: dict[ClientIdentity, VerifiedKeyPackage] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def accounts(self) -> list[str]:
        """Those of which somebody can be added."""
        return list(dict.fromkeys(client.account for client in self.packages))

    def refuse(self, account: str, reason: str) -> None:
        """None of this account's devices can be added after all."""
        self.packages = {client: package for client, package in self.packages.items() if client.account != account}
        self.failed[account] = reason


async def find_candidates(plugin: MLS, session: RoomGroup, accounts: Iterable[str]) -> Candidates:
    """The devices of these accounts that are not in the group yet.

    :param accounts: bare JIDs, or full identities (``account/device``) of single devices
    """
    found = Candidates()
    await asyncio.gather(*(_find(plugin, session, account, found) for account in dict.fromkeys(accounts)))
    return found


async def _find(plugin: MLS, session: RoomGroup, wanted: str, found: Candidates) -> None:
    account, _, only = wanted.partition("/")
    try:
        items = await read_items(plugin, account)
    except DeliveryError as error:
        found.failed[wanted] = f"the directory can not be read: {error}"
        return
    if not items:
        found.failed[wanted] = "no KeyPackages: no client of this account supports MLS"
        return
    group = session.group
    requirements = GroupRequirements.of_context(group.context)
    rules = plugin.device.leaf_rules(plugin.now)
    usable: dict[ClientIdentity, list[VerifiedKeyPackage]] = {}
    refusals: set[str] = set()
    for item_id, element in items.items():
        try:
            package = open_item(item_id, element, account, requirements, rules)
            client = ClientIdentity.from_leaf(package.leaf)
            if not only or client.device == only:
                usable.setdefault(client, []).append(package)
        except PeerError as error:
            refusals.add(str(error))
    roster = session.roster
    chosen = {
        client: pick(await vouched_for(plugin, group.suite, packages), plugin.picked)
        for client, packages in usable.items()
        if client != plugin.device.identity and roster.leaf_of(client) is None
    }
    unfit = _refuse_credentials(session, chosen, found)
    denied = await _authenticate(plugin, session, {c: p for c, p in chosen.items() if c not in unfit}, found)
    if denied + len(unfit) == len(chosen):
        if usable and not chosen:
            found.failed[wanted] = "all of its devices are in the group"
        else:
            reasons = refusals.union(found.skipped[str(client)] for client in chosen)
            found.failed[wanted] = "; ".join(sorted(reasons)[:3]) or "no KeyPackages of this device"


async def read_items(plugin: MLS, account: str) -> Mapping[str, AnyElement]:
    """An account's KeyPackages: the newest, and more of them if one with many devices has them.

    :raises DeliveryError: they can not be read
    """
    items = await plugin.directory.items(account, limit=_READ)
    return items if len(items) < _READ else await plugin.directory.items(account, limit=_READ_MORE)


async def vouched_for(plugin: MLS, suite: CipherSuite, packages: list[VerifiedKeyPackage]) -> list[VerifiedKeyPackage]:
    """Those of one device's KeyPackages whose key is vouched for, if they do not all have the same.

    Whoever can write into the directory could else hide the genuine ones among others under the same device's name.

    :returns: all of them if none is, or all have one key: it is for the caller to ask about the one that is picked
    """
    kinds: dict[object, list[VerifiedKeyPackage]] = {}
    for package in packages:
        kinds.setdefault((package.leaf.signature_key, package.leaf.credential), []).append(package)
    if len(kinds) < 2:
        return packages
    verdicts = await plugin.authentication.validate([kind[0].leaf for kind in kinds.values()], suite)
    genuine = [kind for kind, verdict in zip(kinds.values(), verdicts, strict=True) if verdict.is_valid]
    return [package for kind in genuine for package in kind] or packages


def pick(packages: list[VerifiedKeyPackage], picked: Recent[bytes, None]) -> VerifiedKeyPackage:
    """One of a device's KeyPackages, as the module's text says.

    :param picked: the references of those that we have picked before
    """
    ordinary = [package for package in packages if not package.last_resort]
    fresh = [package for package in ordinary if package.reference not in picked]
    again = [package for package in packages if package.last_resort]
    package = random.choice(fresh or again or ordinary)  # noqa: S311  # not a secret
    picked[package.reference] = None  # its owner may not have come to retract it when we add to the next room
    return package


def open_item(
    item_id: str, element: AnyElement, account: str, requirements: GroupRequirements, rules: LeafRules
) -> VerifiedKeyPackage:
    """An item of an account's KeyPackages, verified for use in a group.

    :raises PeerError: it is none, not acceptable, or not what its item id and attributes say
    """
    parsed = parse(element)
    if not isinstance(parsed, KeyPackage):
        raise MalformedError("an item of the KeyPackages' node that is none")
    if parsed.suite != requirements.suite.id:
        raise InvalidError(f"a KeyPackage for cipher suite {parsed.suite}", "RFC 9420 10.1")
    package = open_key_package(parsed.data, account, requirements, rules)
    if package.reference.hex() != item_id or parsed.ref != item_id:
        raise InvalidError("a KeyPackage under another one's reference", "RFC 9420 5.2")
    return package


def _refuse_credentials(
    session: RoomGroup, chosen: dict[ClientIdentity, VerifiedKeyPackage], found: Candidates
) -> set[ClientIdentity]:
    """Name those whose type of credential the policy, or a member's software, does not accept (RFC 9420 7.3)."""
    tree, policy = session.group.tree, session.policy
    unfit: set[ClientIdentity] = set()
    for client, package in chosen.items():
        credential = package.leaf.credential
        if not policy.accepts(credential):
            reason = "it has no X.509 credential, which the group's policy demands"
        elif not tree.supported_by_all(Feature.CREDENTIAL, type_of(credential)):
            reason = "it has a credential of a type that not all members support"
        elif not tree.credential_types() <= set(package.leaf.capabilities.credentials):
            reason = "it does not support all types of credentials in the group"
        else:
            continue
        found.skipped[str(client)] = reason
        unfit.add(client)
    return unfit


async def _authenticate(
    plugin: MLS, session: RoomGroup, chosen: dict[ClientIdentity, VerifiedKeyPackage], found: Candidates
) -> int:
    """Keep those whom the Authentication Service knows; how many it does not."""
    leaves = [package.leaf for package in chosen.values()]
    verdicts = await plugin.authentication.validate(leaves, session.group.suite)
    denied = 0
    for (client, package), verdict in zip(chosen.items(), verdicts, strict=True):
        if verdict.is_valid:
            found.packages[client] = package
        else:
            found.skipped[str(client)] = verdict.text
            denied += 1
    return denied
