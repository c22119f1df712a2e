"""The services that the parts of one running client share.

The plugin makes one :class:`Context` when the store is open, and hands it to the parts that it builds.  A context
holds services, never parts: no rooms, no key rotation.  A part that needs two of these services or fewer takes them
instead of the context.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from slixmpp import ClientXMPP

from ..authentication import AuthenticationService, TrustManagement
from ..authentication.callbacks import Recent
from ..client import Device, Member
from ..delivery import DeviceDirectory, KeyPackageDirectory, Uploads
from ..identity import TrustLevel, fingerprint, key_identifier
from ..mls.crypto.cipher_suite import CipherSuite
from .clock import SteadyClock
from .question_budget import QuestionBudget
from .settings import Settings
from .tasks import Tasks

__all__ = ["Context"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The services of one running client.

    :ivar xmpp: the slixmpp client
    :ivar device: this device, with its store
    :ivar settings: the configuration
    :ivar clock: the wall clock, and whether it can be relied on
    :ivar authentication: the configured service; people's decisions about keys outrank it
    :ivar trust: the rules of XEP-0450, and the table of keys that people decide about
    :ivar key_packages: the directory of KeyPackages, ours and others'
    :ivar devices: the directory of devices, ours and others'
    :ivar uploads: HTTP upload (XEP-0363)
    :ivar used_key_packages: KeyPackageRefs of others with which we have lately added somebody, or tried to
    :ivar tasks: work in the background
    :ivar questions: how many accounts others may still make us ask about
    """

    xmpp: ClientXMPP
    device: Device
    settings: Settings
    clock: SteadyClock
    authentication: AuthenticationService
    trust: TrustManagement
    key_packages: KeyPackageDirectory
    devices: DeviceDirectory
    uploads: Uploads
    used_key_packages: Recent[bytes, None]
    tasks: Tasks
    questions: QuestionBudget = field(default_factory=QuestionBudget)

    def fire(self, name: str, event: object) -> None:
        """Tell the application's handlers of an event; see :mod:`.events`."""
        self.xmpp.event(name, event)

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        return self.clock.time()

    @property
    def now(self) -> int:
        """Whole seconds since the Unix epoch."""
        return self.clock.now

    @property
    def fingerprint(self) -> str:
        """Of our key for the preferred cipher suite, for people to compare."""
        suite = CipherSuite.get(self.device.suites[0])
        return fingerprint(self.device.signature_key(suite).public)

    def with_levels(self, members: Iterable[Member]) -> list[Member]:
        """The same members, with :attr:`Member.level`.

        :raises StoreError: the store failed
        """
        with self.trust.table.open() as keys:
            return [
                replace(member, level=keys.get(member.account, key_identifier(member.signature_key)).level)
                for member in members
            ]

    def is_verified(self, account: str, signature_key: bytes) -> bool:
        """Whether people have compared a key of an account.

        :raises StoreError: the store failed
        """
        return self.trust.table.get(account, key_identifier(signature_key)).level is TrustLevel.VERIFIED
