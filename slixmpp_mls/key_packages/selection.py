"""Finds the devices that can be added to a group: from bare JIDs to verified KeyPackages.

One KeyPackage of each device is picked at random (:mod:`.reading`): PEP cannot hand out an item only once, and two
clients that add at the same time should seldom pick the same one.  A KeyPackage that we have picked before, or one of
last resort, is used only if there is no other.  Then the Authentication Service validates the leaf.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from ..authentication import AuthenticationService
from ..authentication.callbacks import Recent
from ..client import RoomGroup
from ..errors import DeliveryError, NotPermitted, Refused, StoreError, suite_name
from ..identity import ClientIdentity, normal_forms
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.structures.credential import type_of
from ..mls.tree.leaf_validation import GroupRequirements, VerifiedKeyPackage
from ..mls.tree.tree_index import Feature
from ..runtime import Context
from .admission import NOT_VOUCHED, Unvouched, admission
from .items import read_listed
from .reading import read_key_packages

__all__ = ["PATIENCE", "Candidates", "each_by_itself", "find_candidates", "pick", "vouched_for"]

log = logging.getLogger(__name__)

_NOTHING_THERE = frozenset({
    "forbidden", "item-not-found", "not-authorized", "service-unavailable", "remote-server-not-found",
    "remote-server-timeout",
})  # fmt: skip

PATIENCE = 20.0
"""Time limit for reading everything from an account's server, in seconds."""
_CLAIMS = 100  # devices that are reported only because an item claims to be theirs, at most


@dataclass(slots=True)
class Candidates:
    """The results of searching the directories of some accounts.

    :ivar packages: a KeyPackage for each device that can be added
    :ivar unvouched: of these devices, those without a voucher of their account; see :mod:`.admission`
    :ivar failed: reason for each account that has no device to add
    :ivar skipped: reason for each device (full identity) that cannot be added
    """

    packages: dict[ClientIdentity, VerifiedKeyPackage] = field(default_factory=dict)
    unvouched: dict[ClientIdentity, Unvouched] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def accounts(self) -> list[str]:
        """The accounts with a device that can be added."""
        return list(dict.fromkeys(client.account for client in self.packages))

    def refuse_device(self, client: ClientIdentity, reason: str) -> None:
        """Record that this device cannot be added after all."""
        del self.packages[client]
        self.skipped[str(client)] = reason
        if client.account not in self.accounts:
            self.failed[client.account] = reason

    def refuse(self, account: str, reason: str) -> None:
        """Record that none of this account's devices can be added after all."""
        self.packages = {client: package for client, package in self.packages.items() if client.account != account}
        self.failed[account] = reason


async def find_candidates(
    context: Context, group: RoomGroup, accounts: Iterable[str], *, again: bool = False
) -> Candidates:
    """Find the devices of these accounts that are not in the group yet.

    The accounts are queried concurrently, each for :data:`PATIENCE` seconds at most.

    :param accounts: bare JIDs, or full identities (``account/device``) of single devices, in any spelling
    :param again: also the devices that are in the group, to be added in the place of their leaves
    :raises StoreError: the store failed
    """
    found = Candidates()
    wanted, found.failed = normal_forms(accounts)
    found.failed |= await each_by_itself({each: partial(_find, context, group, each, found, again) for each in wanted})
    return found


def says_nothing_is_there(error: DeliveryError) -> bool:
    """Whether a server says in one of the usual ways that an account, or its node, does not exist.

    Servers refuse to say which accounts there are, so what they answer has several names.
    """
    if isinstance(error, NotPermitted):
        return True
    return isinstance(error, Refused) and error.condition in _NOTHING_THERE


async def each_by_itself(work: Mapping[str, Callable[[], Awaitable[None]]]) -> dict[str, str]:
    """Do the work for several accounts concurrently.  An error or a delay of one does not affect the others.

    :returns: a reason for each account whose work has failed
    :raises StoreError: our store failed, whichever the account
    """
    failed: dict[str, str] = {}

    async def one(account: str, begin: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await begin()
        except TimeoutError:
            failed[account] = f"no answer within {PATIENCE:.0f} seconds"
        except DeliveryError as error:
            if says_nothing_is_there(error):
                log.info("%s publishes no KeyPackages: %s", account, error)
                failed[account] = "no such account, or no MLS: a program with MLS must have logged in to it once"
            else:
                failed[account] = f"the directory cannot be read: {error}"
        except StoreError:
            raise
        except Exception as error:
            log.exception("the KeyPackages of %s cannot be used", account)
            failed[account] = f"its KeyPackages cannot be used: {error}"

    await asyncio.gather(*(one(*each) for each in work.items()))
    return failed


async def _find(context: Context, group: RoomGroup, wanted: str, found: Candidates, again: bool) -> None:
    account, _, only = wanted.partition("/")
    mls = group.mls
    suite = mls.suite.id
    roster = group.roster  # includes this device

    def is_wanted(client: ClientIdentity) -> bool:
        return only in ("", client.device) and (again or roster.leaf_of(client) is None)

    listed = await read_listed(context.devices, account)
    requirements = {int(suite): GroupRequirements.of_context(mls.context)}
    read = await read_key_packages(context, account, listed, requirements, is_wanted)
    if read.empty and not listed:
        found.failed[wanted] = "no KeyPackages: no client of this account supports MLS"
        return
    usable, refusals = {client: packages for (client, _), packages in read.usable.items()}, read.refusals
    claimed = [client for client in refusals if client is not None][:_CLAIMS]
    everybody = dict.fromkeys((*usable, *(ClientIdentity(account, name) for name in sorted(listed)), *claimed))
    known = [each for each in everybody if is_wanted(each)]
    packages = {
        client: pick(await vouched_for(context.authentication, mls.suite, usable[client]), context.used_key_packages)
        for client in known
        if client in usable
    }
    chosen = Candidates()
    unfit = _refuse_credentials(group, packages, chosen)
    fit = {client: package for client, package in packages.items() if client not in unfit}
    await _authenticate(context.authentication, group, fit, chosen)
    for client, package in list(chosen.packages.items()):
        if context.is_verified(account, package.leaf.signature_key):
            continue  # a person has compared the key: no server's word is needed
        ground = admission(group, client, package.leaf, listed.get(client.device), context.now, named=bool(only))
        if ground is Unvouched.NEW_DEVICE:
            chosen.skipped[str(client)] = NOT_VOUCHED
            del chosen.packages[client]
        elif ground is not None:
            found.unvouched[client] = ground
    for client in known:
        if client not in packages:  # it is listed or claims to exist: no report would mean that it has been added
            reasons = refusals.get(client) or {f"it has no KeyPackage for cipher suite {suite_name(suite)}"}
            chosen.skipped[str(client)] = "; ".join(sorted(reasons)[:3])
    found.packages |= chosen.packages
    found.skipped |= chosen.skipped
    if chosen.packages:
        return
    if not known and any(only in ("", client.device) and roster.leaf_of(client) is not None for client in everybody):
        found.failed[wanted] = "all of its devices are in the group"
        return
    reasons = {*chosen.skipped.values(), *(refusals.get(None, ()) if not only else ())}
    lacking = "no KeyPackages of this device" if only else f"no KeyPackage for cipher suite {suite_name(suite)}"
    found.failed[wanted] = "; ".join(sorted(reasons)[:3]) or lacking


async def vouched_for(
    authentication: AuthenticationService, suite: CipherSuite, packages: list[VerifiedKeyPackage]
) -> list[VerifiedKeyPackage]:
    """The KeyPackages of one device with a key that is vouched for, if they do not all have the same key.

    Otherwise an attacker with write access to the directory could hide the genuine ones among forged ones that bear the
    same device's name.

    :returns: all of them if none is vouched for, or if all have one key: the caller validates the one that is picked
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
    """Pick one of a device's KeyPackages, as the module describes.

    :param used: the references of those that were picked before; the returned one is added
    """
    ordinary = [package for package in packages if not package.last_resort]
    fresh = [package for package in ordinary if package.reference not in used]
    again = [package for package in packages if package.last_resort]
    package = random.choice(fresh or again or ordinary)  # noqa: S311  # not a secret
    used[package.reference] = None  # its owner may not have retracted it yet when we add to the next room
    return package


def _refuse_credentials(
    group: RoomGroup, chosen: dict[ClientIdentity, VerifiedKeyPackage], found: Candidates
) -> set[ClientIdentity]:
    """Refuse devices with a credential type that the policy or a member's software does not accept (RFC 9420 7.3)."""
    tree, policy = group.mls.tree, group.policy
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
    group: RoomGroup,
    chosen: dict[ClientIdentity, VerifiedKeyPackage],
    found: Candidates,
) -> None:
    """Keep the devices that the Authentication Service vouches for."""
    leaves = [package.leaf for package in chosen.values()]
    verdicts = await authentication.validate(leaves, group.mls.suite)
    for (client, package), verdict in zip(chosen.items(), verdicts, strict=True):
        if verdict.is_valid:
            found.packages[client] = package
        else:
            found.skipped[str(client)] = verdict.text
