"""Transcript hashes: the history that members agree on (RFC 9420 8.2), and the tag that proves it (6.1).

Each Commit extends the chain in two halves, since its confirmation tag depends on the first half::

    interim [n-1] ── + Commit with signature ── confirmed [n] ── + confirmation tag ── interim [n]
"""

from __future__ import annotations

from ...errors import InvalidError
from ..crypto.cipher_suite import CipherSuite
from ..registry import WireFormat
from ..structures.framing import FramedContent
from ..varint import encode_varint

__all__ = ["confirmation_tag", "confirmed_transcript_hash", "interim_transcript_hash", "verify_confirmation_tag"]


def confirmed_transcript_hash(
    suite: CipherSuite, interim: bytes, wire_format: WireFormat, commit: FramedContent, signature: bytes
) -> bytes:
    """The chain with the Commit in it.

    :param interim: the interim hash of the epoch in which the Commit was sent
    """
    out = bytearray(interim)
    out += wire_format.to_bytes(2, "big")
    out += commit.encode()
    out += encode_varint(len(signature))
    out += signature
    return suite.hash(out)


def interim_transcript_hash(suite: CipherSuite, confirmed: bytes, tag: bytes) -> bytes:
    """The chain with the Commit's confirmation tag in it, too."""
    return suite.hash(b"".join((confirmed, encode_varint(len(tag)), tag)))


def confirmation_tag(suite: CipherSuite, confirmation_key: bytes, confirmed: bytes) -> bytes:
    """The tag by which a committer shows that it has the new epoch's keys and history.

    :param confirmation_key: of the new epoch
    :param confirmed: the new epoch's confirmed transcript hash
    """
    return suite.mac(confirmation_key, confirmed)


def verify_confirmation_tag(suite: CipherSuite, confirmation_key: bytes, confirmed: bytes, tag: bytes) -> None:
    """:raises InvalidError: the sender has another history, or other keys, than we do"""
    try:
        suite.verify_mac(confirmation_key, confirmed, tag)
    except InvalidError:
        raise InvalidError("wrong confirmation tag", "RFC 9420 6.1") from None
