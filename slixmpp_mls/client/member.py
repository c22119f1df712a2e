"""A member as applications see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from ..identity import ClientIdentity, TrustLevel, fingerprint
from ..mls.structures.leaf_node import LeafNode

__all__ = ["Member"]

_client = lru_cache(maxsize=1024)(ClientIdentity)  # whose names are checked each time that one is made


@dataclass(frozen=True, slots=True)
class Member:
    """One client in a group.

    :ivar account: bare JID
    :ivar device: device id
    :ivar leaf_index: place in the group, from 0
    :ivar signature_key: the key with which it signs
    :ivar since: when it came, seconds since the Unix epoch; for those who were there
        before us, when we came
    :ivar renewed: when it got its present keys, as far as we have seen it, by the room's clock
    :ivar level: how far the key is believed to be the account's, in lists of members; None in events
    """

    account: str
    device: str
    leaf_index: int
    signature_key: bytes = field(repr=False)
    since: int | None = None
    renewed: int | None = None
    level: TrustLevel | None = None

    def __str__(self) -> str:
        return f"{self.account}/{self.device}"

    @property
    def identity(self) -> ClientIdentity:
        return _client(self.account, self.device)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its signature key, eight groups of eight hexadecimal digits."""
        return fingerprint(self.signature_key)

    @classmethod
    def of(cls, index: int, leaf: LeafNode, since: int | None = None) -> Member:
        """The member at a leaf.

        :raises InvalidError: its credential names no client
        """
        who = ClientIdentity.from_leaf(leaf)
        return cls(who.account, who.device, index, leaf.signature_key, since)
