"""A directory of KeyPackages without a server."""

from __future__ import annotations

from dataclasses import replace

from ..client import Device, RoomGroup, open_key_package
from ..errors import PeerError
from ..identity import ClientIdentity
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.structures.framing import MLSMessage
from ..mls.structures.key_package import KeyPackage
from ..mls.tree.leaf_validation import GroupRequirements, VerifiedKeyPackage

__all__ = ["FakeDirectory"]


class FakeDirectory:
    """KeyPackages by account, like the PEP nodes of all accounts.

    :ivar items: MLSMessages by account and KeyPackageRef; a test may insert anything
    """

    def __init__(self) -> None:
        self.items: dict[str, dict[bytes, bytes]] = {}

    def replenish(self, device: Device, now: int) -> None:
        """Replenish a device's KeyPackages, as a device does at every start."""
        account = self.items.setdefault(device.identity.account, {})
        own = [reference for reference, message in account.items() if _owner(message) == device.identity]
        plan = device.key_packages.plan(own, now)
        account.update({package.reference: package.message for package in plan.publish})
        for reference in plan.retract:
            account.pop(reference, None)

    def find(
        self, account: str, group: RoomGroup, now: int, suite: int | None = None
    ) -> dict[ClientIdentity, VerifiedKeyPackage]:
        """Find the first usable KeyPackage of each device of an account; one of last resort only if there is no other.

        :param suite: the cipher suite, instead of the group's
        """
        requirements = GroupRequirements.of_context(group.mls.context)
        if suite is not None:
            requirements = replace(requirements, suite=CipherSuite.get(suite))
        found: dict[ClientIdentity, VerifiedKeyPackage] = {}
        for message in self.items.get(account, {}).values():
            if _suite(message) != requirements.suite.id:
                continue
            package = open_key_package(message, account, requirements, group.device.leaf_rules(now))
            known = found.get(ClientIdentity.from_leaf(package.leaf))
            if known is None or (known.last_resort and not package.last_resort):
                found[ClientIdentity.from_leaf(package.leaf)] = package
        return found


def _owner(message: bytes) -> ClientIdentity | None:
    try:
        package = MLSMessage.decode(message).body
        return ClientIdentity.from_leaf(package.leaf_node) if isinstance(package, KeyPackage) else None
    except PeerError:
        return None


def _suite(message: bytes) -> int | None:
    package = MLSMessage.decode(message).body
    return package.cipher_suite if isinstance(package, KeyPackage) else None
