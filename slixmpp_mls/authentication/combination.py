"""Several Authentication Services as one: all of them must agree, or one of them is enough.

An ``UNKNOWN`` counts only where the other answers decide nothing: in all-of an ``INVALID`` is final, in any-of a
``VALID``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from ..errors import UsageError
from ..identity import ClientIdentity
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.structures.credential import AnyCredential
from ..mls.structures.leaf_node import LeafNode
from .interface import AuthenticationService, Validity, Verdict

__all__ = ["AllOf", "AnyOf"]


class _Combination(AuthenticationService):
    _PRECEDENCE: tuple[Validity, ...]
    """The first of these that any service answers is the answer."""

    def __init__(self, *services: AuthenticationService) -> None:
        """:raises UsageError: there are no services"""
        if not services:
            raise UsageError("a combination of no Authentication Services")
        self.services = services

    async def issue(
        self,
        client: ClientIdentity,
        keys: Mapping[int, bytes],
        *,
        label: str | None = None,
        also: Mapping[int, bytes] | None = None,
    ) -> None:
        """With each service, in their order; the first error ends it."""
        for service in self.services:
            await service.issue(client, keys, label=label, also=also)

    async def validate(self, leaves: Sequence[LeafNode], suite: CipherSuite) -> list[Verdict]:
        """All services are asked about all leaves, at the same time."""
        answers = await asyncio.gather(*(service.validate(leaves, suite) for service in self.services))
        return [min(verdicts, key=self._rank) for verdicts in zip(*answers, strict=True)]

    def _rank(self, verdict: Verdict) -> int:
        return self._PRECEDENCE.index(verdict.validity)

    async def note_successor(self, before: LeafNode, after: LeafNode, suite: CipherSuite) -> None:
        """To each service."""
        for service in self.services:
            await service.note_successor(before, after, suite)

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """To each service: one change may be told several times."""
        ends = [service.subscribe(changed) for service in self.services]

        def end() -> None:
            for one in ends:
                one()

        return end


class AllOf(_Combination):
    """A leaf is valid if all services say so, and invalid if one says so."""

    _PRECEDENCE = (Validity.INVALID, Validity.UNKNOWN, Validity.VALID)

    async def same_client(self, one: AnyCredential, other: AnyCredential) -> bool:
        """Whether all services say so."""
        return all([await service.same_client(one, other) for service in self.services])


class AnyOf(_Combination):
    """A leaf is valid if one service says so, and invalid if all say so."""

    _PRECEDENCE = (Validity.VALID, Validity.UNKNOWN, Validity.INVALID)

    async def same_client(self, one: AnyCredential, other: AnyCredential) -> bool:
        """Whether one service says so."""
        return any([await service.same_client(one, other) for service in self.services])
