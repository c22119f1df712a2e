"""The services of a running client without a connection: its account's nodes are dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from slixmpp import ClientXMPP

from slixmpp_mls.authentication import VALID, DeviceListService, TrustManagement, TrustTable, Verdict
from slixmpp_mls.authentication.callbacks import Recent
from slixmpp_mls.delivery import DeviceDirectory, KeyPackageDirectory, Uploads
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.leaf_node import LeafNode
from slixmpp_mls.runtime import Context, Settings, SteadyClock, Tasks
from slixmpp_mls.stanza import Device, Key, KeyPackage
from slixmpp_mls.testing import Participant


class Recorded(ClientXMPP):
    """A client that is never connected; :attr:`seen` has the events that it was told to fire."""

    def __init__(self, jid: str) -> None:
        super().__init__(jid, "")
        self.seen: list[tuple[str, Any]] = []

    def event(self, name: str, data: Any = {}) -> None:  # noqa: B006  # slixmpp's signature
        self.seen.append((name, data))
        super().event(name, data)


class Nodes:
    """A node of each account: items by account and item id.

    :ivar error: raised by every request, if it is not None
    :ivar read: ids of the items that were handed out
    """

    def __init__(self) -> None:
        self.of: dict[str, dict[str, Element]] = {}
        self.error: Exception | None = None
        self.limits: list[int | None] = []
        self.read: list[str] = []


class _Node:
    """What PEPNode does, with a dictionary for a server."""

    _account: str
    nodes: Nodes
    publications: int

    async def check(self) -> bool:
        self._fail()
        return True

    async def publish(self, item_id: str, element: Element) -> None:
        self._fail()
        self.nodes.of.setdefault(self._account, {})[item_id] = element
        self.publications += 1

    async def publish_many(self, items: dict[str, Element]) -> None:
        for item_id, element in items.items():
            await self.publish(item_id, element)

    async def retract(self, item_id: str) -> bool:
        self._fail()
        return self.nodes.of.get(self._account, {}).pop(item_id, None) is not None

    async def retract_many(self, item_ids: Iterable[str]) -> None:
        for item_id in item_ids:
            await self.retract(item_id)

    async def items(
        self, account: str | None = None, ids: Iterable[str] | None = None, limit: int | None = None
    ) -> dict[str, Element]:
        self._fail()
        self.nodes.limits.append(limit)
        wanted = None if ids is None else set(ids)
        node = self.nodes.of.get(account or self._account, {})
        there = [item for item in node.items() if wanted is None or item[0] in wanted]
        self.nodes.read += [item_id for item_id, _ in there]
        return dict(there[-(limit or 10_000) :])

    async def own_ids(self) -> set[str]:
        self._fail()
        return set(self.nodes.of.get(self._account, {}))

    def _fail(self) -> None:
        if self.nodes.error is not None:
            raise self.nodes.error


class FakeKeyPackages(_Node, KeyPackageDirectory):  # type: ignore[misc]
    """A directory of KeyPackages without a server."""

    def __init__(self, xmpp: ClientXMPP, nodes: Nodes) -> None:
        KeyPackageDirectory.__init__(self, xmpp)
        self.nodes = nodes

    async def last_resort_items(self, account: str) -> dict[str, Element]:
        return await self.items(account, [each for each in self.nodes.of.get(account, {}) if "last-resort" in each])


class FakeDevices(_Node, DeviceDirectory):  # type: ignore[misc]
    """A directory of devices without a server."""

    def __init__(self, xmpp: ClientXMPP, nodes: Nodes) -> None:
        DeviceDirectory.__init__(self, xmpp)
        self.nodes = nodes


class Service(DeviceListService):
    """Lists our device, and vouches for everybody but those in `denied`; of those in `unknown` it cannot tell.

    :ivar asked: whom it was asked about
    """

    denied: set[ClientIdentity]
    unknown: set[ClientIdentity]
    asked: list[ClientIdentity]

    async def validate(self, leaves: Sequence[LeafNode], suite: CipherSuite) -> list[Verdict]:
        clients = [ClientIdentity.from_leaf(leaf) for leaf in leaves]
        self.asked += clients
        return [self._verdict(each) for each in clients]

    def _verdict(self, client: ClientIdentity) -> Verdict:
        if client in self.denied:
            return Verdict.invalid("no-device", f"{client} is denied")
        return Verdict.unknown("unreachable", f"of {client} nothing is known") if client in self.unknown else VALID


class Client:
    """A participant with a context.

    :param others: another client of the same test, whose nodes are shared
    """

    def __init__(self, person: Participant, others: Client | None = None, **settings: Any) -> None:
        self.person, self.device, self.world = person, person.device, person.world
        self.xmpp = Recorded(f"{person.account}/{person.device.identity.device}")
        self.key_packages: Nodes = others.key_packages if others is not None else Nodes()
        self.devices: Nodes = others.devices if others is not None else Nodes()
        self.failures: list[Exception] = []
        self.monotonic = 0.0
        world = self.world
        node = FakeDevices(self.xmpp, self.devices)
        self.service = Service(node, clock=lambda: float(world.now))
        self.service.denied, self.service.unknown, self.service.asked = set(), set(), []
        self.context = Context(
            xmpp=self.xmpp,
            device=person.device,
            settings=Settings.of({"store": person.store, **settings}),
            clock=SteadyClock(lambda: float(world.now), lambda: self.monotonic),
            authentication=self.service,
            trust=TrustManagement(TrustTable(person.store, clock=lambda: float(world.now)), person.account),
            key_packages=FakeKeyPackages(self.xmpp, self.key_packages),
            devices=node,
            uploads=Uploads(self.xmpp),
            used_key_packages=Recent(100),
            tasks=Tasks(self.failures.append),
        )

    def list_device(self, client: Client | None = None) -> Device:
        """List this device, or another one, in the account's node of devices."""
        device = (client or self).device
        entry = Device(device.identity.device, tuple(Key(*each) for each in device.signature_keys().items()))
        self.devices.of.setdefault(device.identity.account, {})[entry.id] = entry.to_stdlib()
        return entry

    def publish_key_packages(self) -> dict[str, Element]:
        """Put this device's KeyPackages of the world's directory into the account's node."""
        own = self.key_packages.of.setdefault(self.person.account, {})
        suite = CipherSuite.get(self.device.suites[0])
        for reference, message in self.world.directory.items[self.person.account].items():
            ref = reference.hex()
            own[ref] = KeyPackage(ref, suite.id, message, False).to_stdlib()
        return own

    def got(self, name: str) -> list[Any]:
        """The events of one name."""
        return [data for each, data in self.xmpp.seen if each == name]
