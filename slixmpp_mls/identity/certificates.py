"""X.509 certificates as credentials (RFC 9420 5.3): their names, their keys, and requests for them.

A device's certificate names it twice in its subjectAltName, as id-on-xmppAddr (RFC 6120 13.7.1.4): the
account, by which other XMPP software knows it, and the whole identity ``account@server/device-id``.
Another module decides whether its authority is trusted: :mod:`slixmpp_mls.authentication.x509`.

This module finds the client that a leaf claims to be.  All members must find the same client, so the result depends on
the octets alone: no clock, no configuration, and limits that are part of the protocol.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Collection, Iterable
from hashlib import sha256
from itertools import pairwise
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey, MLDSA65PublicKey, MLDSA87PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ..errors import InvalidError, MalformedError
from ..mls.crypto.signature import SignaturePrivateKey
from ..mls.registry import SignatureScheme
from ..mls.structures.credential import Certificate, X509Credential

__all__ = [
    "IM_URI", "MAX_CERTIFICATE", "MAX_CHAIN", "UNREADABLE", "certificate_request", "certified_key", "chain_from_pem",
    "chain_of", "end_entity", "extensions_of", "hash_for", "leads_to", "load_certificate", "subject_alternative_name",
    "xmpp_addresses",
]  # fmt: skip

MAX_CHAIN = 6  # certificates in a credential
MAX_CERTIFICATE = 8192  # octets of each

_SECTION = "RFC 9420 5.3"
IM_URI = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.40")  # id-kp-imUri, RFC 9734: signs messages for an IM client
_XMPP_ADDR = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5")  # id-on-xmppAddr, RFC 6120 13.7.1.4
_CURVES = {
    "secp256r1": SignatureScheme.ecdsa_secp256r1_sha256,
    "secp384r1": SignatureScheme.ecdsa_secp384r1_sha384,
    "secp521r1": SignatureScheme.ecdsa_secp521r1_sha512,
}
# All exceptions of `cryptography` for unreadable input; some are no ValueError.
UNREADABLE = (
    ValueError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
)  # fmt: skip


def chain_of(credential: X509Credential) -> tuple[x509.Certificate, ...]:
    """The certificates, parsed, the device's own first.

    :raises InvalidError: none, too many or too large ones, or one cannot be read
    """
    _check_limits(credential)
    return tuple(load_certificate(certificate.cert_data) for certificate in credential.certificates)


def end_entity(credential: X509Credential) -> bytes:
    """The device's own certificate, DER, not parsed.

    :raises InvalidError: none, or too many or too large ones beside it
    """
    _check_limits(credential)
    return credential.certificates[0].cert_data


def _check_limits(credential: X509Credential) -> None:
    if not 1 <= len(credential.certificates) <= MAX_CHAIN:
        raise InvalidError(f"a credential must have 1 to {MAX_CHAIN} certificates", _SECTION)
    if any(len(certificate.cert_data) > MAX_CERTIFICATE for certificate in credential.certificates):
        raise InvalidError(f"a certificate of more than {MAX_CERTIFICATE} octets", _SECTION)


# Warnings are made errors for the whole process: two threads at once (a large tree is verified in one of its own) would
# take that from each other, so that one reads what others refuse, or leave it behind.
_loading = threading.Lock()


def load_certificate(data: bytes) -> x509.Certificate:
    """One certificate, from DER.

    :raises InvalidError: it cannot be read
    """
    try:
        with _loading, warnings.catch_warnings():
            warnings.simplefilter(
                "error"
            )  # a later version will refuse what causes a warning now, and all members must agree
            return x509.load_der_x509_certificate(data)
    except (*UNREADABLE, Warning) as error:
        raise InvalidError(f"a certificate that cannot be read: {type(error).__name__}", _SECTION) from None


def extensions_of(certificate: x509.Certificate | x509.CertificateSigningRequest) -> x509.Extensions:
    """Its extensions, all of which must be readable.

    :raises InvalidError: they are not
    """
    try:
        return certificate.extensions
    except UNREADABLE as error:
        raise InvalidError(f"extensions that cannot be read: {type(error).__name__}", _SECTION) from None


def xmpp_addresses(certificate: x509.Certificate | x509.CertificateSigningRequest) -> tuple[str, ...]:
    """The id-on-xmppAddr names of a certificate or a request, unchanged and in their order.

    :raises InvalidError: extensions, or one of these names, cannot be read
    """
    try:
        names = extensions_of(certificate).get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    found = (name for name in names.get_values_for_type(x509.OtherName) if name.type_id == _XMPP_ADDR)
    try:
        return tuple(asn1.decode_der(str, name.value) for name in found)
    except ValueError:
        raise InvalidError("an id-on-xmppAddr that is no UTF8String", "RFC 6120 13.7.1.4") from None


def subject_alternative_name(addresses: Iterable[str]) -> x509.SubjectAlternativeName:
    """The extension that :func:`xmpp_addresses` reads."""
    return x509.SubjectAlternativeName([x509.OtherName(_XMPP_ADDR, asn1.encode_der(address)) for address in addresses])


def certified_key(certificate: x509.Certificate | x509.CertificateSigningRequest) -> tuple[int, bytes]:
    """The number of the TLS SignatureScheme of a certificate's key, and the key as leaves carry it.

    :raises InvalidError: no key for any cipher suite
    """
    try:
        key = certificate.public_key()
    except UNREADABLE:
        key = None
    if isinstance(key, Ed25519PublicKey):
        return SignatureScheme.ed25519, key.public_bytes_raw()
    if isinstance(key, Ed448PublicKey):
        return SignatureScheme.ed448, key.public_bytes_raw()
    if isinstance(key, MLDSA44PublicKey):
        return SignatureScheme.mldsa44, key.public_bytes_raw()
    if isinstance(key, MLDSA65PublicKey):
        return SignatureScheme.mldsa65, key.public_bytes_raw()
    if isinstance(key, MLDSA87PublicKey):
        return SignatureScheme.mldsa87, key.public_bytes_raw()
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name], key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    raise InvalidError("a certificate for a key that no cipher suite uses", "RFC 9420 5.3, 17.1")


def chain_from_pem(data: bytes) -> X509Credential:
    """A credential from a PEM file with the device's certificate first and its authorities' after it.

    :raises MalformedError: no certificates in PEM
    :raises InvalidError: too many or too large ones
    """
    try:
        found = x509.load_pem_x509_certificates(data)
    except UNREADABLE as error:
        raise MalformedError(f"no certificates in PEM: {error}") from None
    credential = X509Credential(tuple(Certificate(each.public_bytes(Encoding.DER)) for each in found))
    _check_limits(credential)
    return credential


def certificate_request(addresses: Iterable[str], key: SignaturePrivateKey) -> bytes:
    """A request (PKCS #10, PEM) for a certificate that names these addresses, signed with the device's own key.

    The subject is empty: XMPP names are in the subjectAltName (RFC 6120 13.7.1.2.1).
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(subject_alternative_name(addresses), critical=True)  # RFC 5280 4.1.2.6
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    request = builder.add_extension(usage, critical=True).sign(key.loaded(), hash_for(key.loaded()))
    return request.public_bytes(Encoding.PEM)


def hash_for(key: Any) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None:
    """The hash to sign certificates and requests with, by private key; EdDSA and ML-DSA have their own: None."""
    size = getattr(getattr(key, "curve", None), "key_size", None)
    if size is None:
        return None
    return hashes.SHA256() if size <= 256 else hashes.SHA384() if size <= 384 else hashes.SHA512()


def leads_to(credential: X509Credential, roots: Collection[bytes]) -> bool:
    """Whether a credential's chain leads to one of these roots; all members get the same answer.

    Each certificate is issued by the next: its issuer is that one's subject, and its signature is by that one's key.
    All but the first may certify others (RFC 5280 4.2.1.9), and the last one is a root.  No clock, no revocation.

    :param roots: SHA-256 hashes of certificates (DER)
    :raises InvalidError: a certificate cannot be read
    """
    if sha256(credential.certificates[-1].cert_data).digest() not in roots:
        return False
    chain = chain_of(credential)
    for certificate, issuer in pairwise(chain):
        try:
            constraints = extensions_of(issuer).get_extension_for_class(x509.BasicConstraints).value
            if not constraints.ca:
                return False
            certificate.verify_directly_issued_by(issuer)
        except (*UNREADABLE, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
    return True
