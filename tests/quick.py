"""What slixmpp does slowly for each of the thousands of clients that tests make, done quickly with the same result."""

from __future__ import annotations

import hashlib
import ssl
from typing import Any

from slixmpp.util.sasl.mechanisms import SCRAM
from slixmpp.xmlstream import XMLStream

_init = XMLStream.__init__


def _without_system_certificates(stream: XMLStream, *arguments: Any, **options: Any) -> None:
    """Reading them takes 50 ms.  A test's client trusts its server's authority alone; without one it trusts nobody."""
    _init(stream, *arguments, **{"ssl_context": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), **options})


def _salted_password(mechanism: Any, text: Any, salt: bytes, iterations: int) -> bytes:
    """``Hi`` of RFC 5802 section 2.2, which is PBKDF2, by OpenSSL: 2 ms rather than 20."""
    assert mechanism.hash is not None
    return hashlib.pbkdf2_hmac(mechanism.hash().name, bytes(text), salt, iterations)


def make_slixmpp_quick() -> None:
    """For this process."""
    XMLStream.__init__ = _without_system_certificates  # type: ignore[method-assign, assignment]
    SCRAM.Hi = _salted_password  # type: ignore[method-assign, assignment]
