"""An Authentication Service that accepts every leaf."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..identity import ClientIdentity
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.structures.leaf_node import LeafNode
from .interface import VALID, AuthenticationService, Verdict

__all__ = ["AcceptAll"]


class AcceptAll(AuthenticationService):
    """**Unsafe**: anyone who gets a leaf into a group can use any name in it.

    For tests, and for closed deployments in which the server and every member are trusted.
    """

    async def issue(
        self,
        client: ClientIdentity,
        keys: Mapping[int, bytes],
        *,
        label: str | None = None,
        also: Mapping[int, bytes] | None = None,
    ) -> None:
        """Nothing to do."""

    async def validate(self, leaves: Sequence[LeafNode], suite: CipherSuite) -> list[Verdict]:
        """All valid, even a leaf that names no client."""
        return [VALID] * len(leaves)

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """Nothing ever changes."""
        return lambda: None
