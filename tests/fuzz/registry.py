"""What a target is: a function over octets that lets nothing but a PeerError out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from slixmpp_mls.errors import PeerError

__all__ = ["TARGETS", "Target", "target"]


@dataclass(frozen=True)
class Target:
    """One decoder under test.

    :ivar read: decodes and asserts; may raise PeerError
    :ivar seeds: octets to begin with
    :ivar words: octets that are worth inserting anywhere
    """

    name: str
    read: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    words: Callable[[], Iterable[bytes]]

    def __call__(self, data: bytes) -> bool:
        """Whether the input was accepted."""
        try:
            self.read(data)
        except PeerError:
            return False
        return True


TARGETS: dict[str, Target] = {}


def target(
    seeds: Callable[[], Iterable[bytes]], words: Callable[[], Iterable[bytes]] = tuple
) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Makes a function a target under its own name."""

    def register(read: Callable[[bytes], None]) -> Callable[[bytes], None]:
        name = read.__name__.replace("_", "-")
        TARGETS[name] = Target(name, read, seeds, words)
        return read

    return register
