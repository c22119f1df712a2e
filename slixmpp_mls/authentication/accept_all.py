"""An Authentication Service that believes everybody."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..identity import ClientIdentity
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.structures.leaf_node import LeafNode
from .interface import VALID, AuthenticationService, Verdict

__all__ = ["AcceptAll"]


class AcceptAll(AuthenticationService):
    """**Unsafe**: whoever gets a leaf into a group can bear anybody's name in it.

    For tests, and for closed set-ups in which the server and every member are trusted anyhow.
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
