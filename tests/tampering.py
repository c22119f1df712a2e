"""Changes what is on its way, for certain: an octet that is written anew is the old one in one run of 256."""

from __future__ import annotations

__all__ = ["tampered"]


def tampered(message: bytes) -> bytes:
    """Octets with one bit changed at their end, where signatures, tags and ciphertexts are."""
    return message[:-1] + bytes([message[-1] ^ 1])
