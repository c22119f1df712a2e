"""Certificates in credentials, as members may send them, and requests for them, as anybody may."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import product

from cryptography.hazmat.primitives.asymmetric import ec

from slixmpp_mls.authentication import X509Service
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.identity.certificate_authority import Request
from slixmpp_mls.identity.certificates import certificate_request
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.credential import X509Credential
from tests.x509 import DAYS, START, Authority, credential, device_key, leaf_with, pem

from .registry import target

ALICE = ClientIdentity("alice@a.example", "a1")
SUITE = CipherSuite.get(1)
# The same key in every process, or seeds made in one would mean nothing in another.
ROOT = Authority.root("root", ec.derive_private_key(0xC0FFEE, ec.SECP256R1()))
BELOW = ROOT.below("below", ec.derive_private_key(0xBEEF, ec.SECP256R1()))
SERVICE = X509Service(pem(ROOT.certificate), crls=pem(ROOT.crl()), clock=(START + DAYS).timestamp)


def _credentials() -> Iterator[bytes]:
    for number, authority in product((1, 2, 4, 5, 7), (ROOT, BELOW)):
        own = authority.device(ALICE, device_key(CipherSuite.get(number)))
        yield credential(own, BELOW.certificate).encode()
    yield credential(ROOT.below("device", names=ALICE.addresses).certificate).encode()


def _words() -> Iterator[bytes]:
    yield from (b"alice@a.example", b"\x0c\x0f", b"\x30\x80", b"\x06\x08\x2b\x06\x01\x05\x05\x07\x08\x05")


@target(_credentials, _words)
def x509_credential(data: bytes) -> None:
    """Whom it names, and whether it is believed: in no case anything but an answer."""
    chain = X509Credential.decode(data)
    leaf = leaf_with(chain, device_key(SUITE).public)
    (verdict,) = asyncio.run(SERVICE.validate([leaf], SUITE))
    client = ClientIdentity.from_credential(chain)
    assert ClientIdentity.from_addresses(client.addresses) == client
    assert not verdict.is_valid or client == ALICE, "somebody whom the authority has never heard of"


def _requests() -> Iterator[bytes]:
    for number in (1, 2, 4, 5, 7):
        yield certificate_request(ALICE.addresses, device_key(CipherSuite.get(number)))


@target(_requests)
def x509_request(data: bytes) -> None:
    """A request for a certificate: only the holder of the key can have made it."""
    request = Request.parse(data)
    keys = {device_key(CipherSuite.get(number)).public for number in (1, 2, 4, 5, 7)}
    assert request.key not in keys or request.client.account == ALICE.account
