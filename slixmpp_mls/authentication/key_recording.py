"""The common base of services that wrap another one and remember keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..errors import InvalidError
from ..identity import ClientIdentity
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.structures.credential import AnyCredential
from ..mls.structures.leaf_node import LeafNode
from .callbacks import Listeners
from .interface import AuthenticationService
from .trust_table import TrustTable

__all__ = ["KeyRecordingService"]


class KeyRecordingService(AuthenticationService):
    """Leaves to another service what it does not judge by itself, and keeps the table of keys up to date.

    Besides the inner service's, all methods raise :class:`StoreError` if the store fails.

    :param inner: the wrapped service
    :param table: remembers keys
    """

    def __init__(self, inner: AuthenticationService, table: TrustTable) -> None:
        self.inner = inner
        self._table = table
        self._changes: Listeners[str] = Listeners()

    async def issue(
        self,
        client: ClientIdentity,
        keys: Mapping[int, bytes],
        *,
        label: str | None = None,
        also: Mapping[int, bytes] | None = None,
    ) -> None:
        """By the inner service; another client with our name is detected."""
        with self._table.open() as table:
            for scheme, key in keys.items():
                table.own(client, scheme, key)
        await self.inner.issue(client, keys, label=label, also=also)

    async def same_client(self, one: AnyCredential, other: AnyCredential) -> bool:
        """By the inner service."""
        return await self.inner.same_client(one, other)

    async def note_successor(self, before: LeafNode, after: LeafNode, suite: CipherSuite) -> None:
        """The new key comes to the old one's level: its holder has named it (RFC 9420 12.1.2, 12.4)."""
        try:
            client = ClientIdentity.from_leaf(after)
            same = ClientIdentity.from_leaf(before) == client
        except InvalidError:
            same = False
        if same and before.signature_key != after.signature_key:
            with self._table.open() as keys:
                keys.succeed(client, suite.signature_scheme, before.signature_key, after.signature_key)
        await self.inner.note_successor(before, after, suite)

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """The changes of the inner service and of the table."""
        ends = (self.inner.subscribe(changed), self._changes.add(changed))

        def end() -> None:
            for one in ends:
                one()

        return end
