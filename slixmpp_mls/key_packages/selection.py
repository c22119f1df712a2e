"""Finding the devices that can be added to a group: from bare JIDs to verified KeyPackages.

Each account's directory is read, and everything in it is verified (:mod:`.items`).  One KeyPackage of each device is
picked at random: PEP cannot hand out an item only once, and two clients that add at the same time should seldom pick
the same.  One that we have picked before, or one of last resort, is taken only if there is nothing else.  Then the
Authentication Service is asked about the leaf.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..authentication import AuthenticationService
from ..authentication.callbacks import Recent
from ..client import RoomGroup
from ..errors import DeliveryError, PeerError
from ..identity import ClientIdentity
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.structures.credential import type_of
from ..mls.tree.leaf_validation import GroupRequirements, VerifiedKeyPackage
from ..mls.tree.tree_index import Feature
from ..runtime import Context
from .items import parse_item, read_items, verify_item

__all__ = ["Candidates", "find_candidates", "pick", "vouched_for"]


@dataclass(slots=True)
class Candidates:
    """What the directories of some accounts have.

    :ivar packages: a KeyPackage for each device that can be added
    :ivar failed: reason for each account of which no device can be added
    :ivar skipped: reason for each device (full identity) that cannot be added
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


async def find_candidates(context: Context, session: RoomGroup, accounts: Iterable[str]) -> Candidates:
    """The devices of these accounts that are not in the group yet.

    :param accounts: bare JIDs, or full identities (``account/device``) of single devices
    """
    found = Candidates()
    await asyncio.gather(*(_find(context, session, account, found) for account in dict.fromkeys(accounts)))
    return found


async def _find(context: Context, session: RoomGroup, wanted: str, found: Candidates) -> None:
    account, _, only = wanted.partition("/")
    try:
        items = await read_items(context.key_packages, account)
    except DeliveryError as error:
        found.failed[wanted] = f"the directory cannot be read: {error}"
        return
    if not items:
        found.failed[wanted] = "no KeyPackages: no client of this account supports MLS"
        return
    group = session.group
    requirements = GroupRequirements.of_context(group.context)
    rules = context.device.leaf_rules(context.now)
    usable: dict[ClientIdentity, list[VerifiedKeyPackage]] = {}
    refusals: set[str] = set()
    for item_id, element in items.items():
        try:
            package = verify_item(item_id, parse_item(element), account, requirements, rules)
            client = ClientIdentity.from_leaf(package.leaf)
            if not only or client.device == only:
                usable.setdefault(client, []).append(package)
        except PeerError as error:
            refusals.add(str(error))
    roster = session.roster
    chosen = {
        client: pick(await vouched_for(context.authentication, group.suite, packages), context.used_key_packages)
        for client, packages in usable.items()
        if client != context.device.identity and roster.leaf_of(client) is None
    }
    unfit = _refuse_credentials(session, chosen, found)
    fit = {client: package for client, package in chosen.items() if client not in unfit}
    denied = await _authenticate(context.authentication, session, fit, found)
    if denied + len(unfit) == len(chosen):
        if usable and not chosen:
            found.failed[wanted] = "all of its devices are in the group"
        else:
            reasons = refusals.union(found.skipped[str(client)] for client in chosen)
            found.failed[wanted] = "; ".join(sorted(reasons)[:3]) or "no KeyPackages of this device"


async def vouched_for(
    authentication: AuthenticationService, suite: CipherSuite, packages: list[VerifiedKeyPackage]
) -> list[VerifiedKeyPackage]:
    """Those of one device's KeyPackages whose key is vouched for, if they do not all have the same key.

    Otherwise an attacker with write access to the directory could hide the genuine ones among others that bear the same
    device's name.

    :returns: all of them if none is vouched for, or if all have one key: the caller asks about the one that is picked
    """
    kinds: dict[object, list[VerifiedKeyPackage]] = {}
    for package in packages:
        kinds.setdefault((package.leaf.signature_key, package.leaf.credential), []).append(package)
    if len(kinds) < 2:
        return packages
    verdicts = await authentication.validate([kind[0].leaf for kind in kinds.values()], suite)
    genuine = [kind for kind, verdict in zip(kinds.values(), verdicts, strict=True) if verdict.is_valid]
    return [package for kind in genuine for package in kind] or packages


def pick(packages: list[VerifiedKeyPackage], used: Recent[bytes, None]) -> VerifiedKeyPackage:
    """One of a device's KeyPackages; see the module.

    :param used: the references of those that were picked before; the one that is returned is added
    """
    ordinary = [package for package in packages if not package.last_resort]
    fresh = [package for package in ordinary if package.reference not in used]
    again = [package for package in packages if package.last_resort]
    package = random.choice(fresh or again or ordinary)  # noqa: S311  # not a secret
    used[package.reference] = None  # its owner may not have retracted it yet when we add to the next room
    return package


def _refuse_credentials(
    session: RoomGroup, chosen: dict[ClientIdentity, VerifiedKeyPackage], found: Candidates
) -> set[ClientIdentity]:
    """Refuse those whose type of credential the policy, or a member's software, does not accept (RFC 9420 7.3)."""
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
    authentication: AuthenticationService,
    session: RoomGroup,
    chosen: dict[ClientIdentity, VerifiedKeyPackage],
    found: Candidates,
) -> int:
    """Keep those that the Authentication Service vouches for.

    :returns: the number of the others
    """
    leaves = [package.leaf for package in chosen.values()]
    verdicts = await authentication.validate(leaves, session.group.suite)
    denied = 0
    for (client, package), verdict in zip(chosen.items(), verdicts, strict=True):
        if verdict.is_valid:
            found.packages[client] = package
        else:
            found.skipped[str(client)] = verdict.text
            denied += 1
    return denied
