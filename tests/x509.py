"""Certificates for tests: good ones, and whatever else an attacker would have made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.identity.certificates import hash_for, subject_alternative_name
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite, SignaturePrivateKey
from slixmpp_mls.mls.structures.credential import Certificate, X509Credential
from slixmpp_mls.mls.structures.leaf_node import LeafNode

from .mls.members import member

__all__ = ["DAYS", "START", "Authority", "credential", "device_key", "leaf_with", "pem"]

START = datetime(2026, 11, 1, tzinfo=UTC)
DAYS = timedelta(days=1)
SIGNING = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
CERTIFYING = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
NO_CERTIFYING = x509.KeyUsage(True, False, False, False, False, False, True, False, False)


def pem(*made: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in made)


def credential(*chain: x509.Certificate) -> X509Credential:
    return X509Credential(tuple(Certificate(each.public_bytes(Encoding.DER)) for each in chain))


def leaf_with(chain: X509Credential, key: bytes) -> LeafNode:
    return replace(member(0).leaf, credential=chain, signature_key=key)


@dataclass
class Authority:
    """One that certifies anything."""

    key: Any
    certificate: x509.Certificate

    @classmethod
    def root(cls, name: str = "root", key: Any = None, **options: Any) -> Authority:
        key = key or ec.generate_private_key(ec.SECP256R1())
        return cls(key, _certificate(_name(name), key.public_key(), _name(name), key, ca=True, **options))

    def below(self, name: str, key: Any = None, **options: Any) -> Authority:
        """An authority that this one has certified."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        options = {"ca": True, **options}
        return Authority(key, self.certify(name, key.public_key(), **options))

    def certify(self, name: str, key: Any, **options: Any) -> x509.Certificate:
        return _certificate(_name(name), key, self.certificate.subject, self.key, **options)

    def device(self, client: ClientIdentity, key: SignaturePrivateKey, **options: Any) -> x509.Certificate:
        """A certificate as it should be, but for the options."""
        options = {"names": client.addresses, **options}
        return self.certify("", key.loaded().public_key(), **options)

    def crl(
        self,
        *revoked: x509.Certificate,
        at: datetime = START,
        lasts: timedelta = 30 * DAYS,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> x509.CertificateRevocationList:
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(at).next_update(at + lasts).add_extension(x509.CRLNumber(1), critical=False)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each.serial_number).revocation_date(at)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hash_for(self.key))


def _certificate(
    name: x509.Name,
    key: Any,
    issuer: x509.Name,
    issuer_key: Any,
    *,
    ca: bool = False,
    names: Sequence[str] = (),
    san: x509.SubjectAlternativeName | None = None,
    usage: x509.KeyUsage | None = SIGNING,
    start: datetime = START,
    lasts: timedelta = 30 * DAYS,
    path_length: int | None = None,
    serial: int | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> x509.Certificate:
    serial = serial or x509.random_serial_number()
    builder = x509.CertificateBuilder(issuer, name, key, serial, start, start + lasts)
    builder = builder.add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
    usage = CERTIFYING if ca and usage is SIGNING else usage
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    if names or san:
        builder = builder.add_extension(san or subject_alternative_name(names), critical=True)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hash_for(issuer_key))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else [])


def device_key(suite: CipherSuite, number: int = 0) -> SignaturePrivateKey:
    return member(number, suite.id).signature_key
