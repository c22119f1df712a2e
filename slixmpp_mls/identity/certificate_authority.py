"""A small certification authority for devices: a key, a root certificate, issued certificates and a revocation list.

It is a folder of standard files; any other X.509 tool can read it, and take over::

    key.pem            the authority's private key (PKCS #8), encrypted if there is a passphrase
    root.pem           its certificate: members of a group trust it
    crl.pem            its revocation list: members check it
    issued/<serial>.pem   each certificate that it has issued

Files are written completely or not at all, and each change of the folder holds a lock on it.  The authority certifies
devices only: its certificate allows no authorities below it (RFC 5280 4.2.1.9).  Its key is an ECDSA key, which
:mod:`slixmpp_mls.authentication.x509` can verify; the devices' keys are of any cipher suite.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from ..errors import InvalidError, MalformedError, PeerError, UsageError
from .certificates import IM_URI, UNREADABLE, certified_key, hash_for, subject_alternative_name, xmpp_addresses
from .client_identity import ClientIdentity

__all__ = ["CertificateAuthority", "Issued", "Request"]

MAX_FILE = 1 << 20  # octets of a request
_BACKDATED = timedelta(hours=1)  # in case other clocks are slow
_ROOT, _KEY, _CRL, _ISSUED = "root.pem", "key.pem", "crl.pem", "issued"


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a certificate (PKCS #10): signed with the key that it asks to certify.

    The request does not prove that it comes from the device that it names: the operator must check that.

    :ivar client: the device
    :ivar key: its public key, as leaves carry it
    """

    client: ClientIdentity
    key: bytes
    csr: x509.CertificateSigningRequest

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a request in PEM.

        :raises MalformedError: it is none
        :raises InvalidError: it does not name one account and one device of it, its key is for no cipher
            suite, or it is not signed with that key
        """
        if len(data) > MAX_FILE:
            raise MalformedError(f"a request of more than {MAX_FILE} octets")
        try:
            csr = x509.load_pem_x509_csr(data)
        except UNREADABLE as error:
            raise MalformedError(f"not a certificate request in PEM: {error}") from None
        _, key = certified_key(csr)
        if not csr.is_signature_valid:
            raise InvalidError("the request is not signed with its own key", "RFC 2986 4.2")
        return cls(ClientIdentity.from_addresses(xmpp_addresses(csr)), key, csr)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate of ours.

    :ivar client: the device that it names
    :ivar key: the certified key, as leaves carry it
    :ivar revoked: since when it is revoked, None if it is not
    """

    client: ClientIdentity
    key: bytes
    certificate: x509.Certificate
    revoked: datetime | None = None

    @property
    def serial(self) -> str:
        """Its serial number, in hexadecimal digits."""
        return _serial(self.certificate)

    def state(self, now: datetime) -> str:
        """``valid``, ``revoked``, ``expired`` or ``not-yet-valid``."""
        if self.revoked is not None:
            return "revoked"
        if now > self.certificate.not_valid_after_utc:
            return "expired"
        return "valid" if now >= self.certificate.not_valid_before_utc else "not-yet-valid"


class CertificateAuthority:
    """An authority in a folder.

    :ivar folder: its files
    :ivar root: its certificate
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open an authority; its private key is not needed until something is signed.

        :raises UsageError: there is none
        """
        self.folder = Path(folder)
        try:
            self.root = x509.load_pem_x509_certificate((self.folder / _ROOT).read_bytes())
        except FileNotFoundError:
            raise UsageError(f"{self.folder} contains no authority") from None
        except UNREADABLE as error:
            raise UsageError(f"{self.folder / _ROOT} cannot be read: {error}") from None

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        name: str,
        *,
        now: datetime,
        passphrase: bytes | None = None,
        lifetime: timedelta = timedelta(days=3650),
        crl_lifetime: timedelta = timedelta(days=7),
    ) -> Self:
        """Make an authority in a new folder.

        :param name: for people, the common name in its certificate
        :raises UsageError: there is one already, or the name is not valid
        """
        folder = Path(folder)
        if (folder / _ROOT).exists() or (folder / _KEY).exists():
            raise UsageError(f"{folder} already contains an authority")
        try:
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        except ValueError as error:
            raise UsageError(f"this name is not valid for an authority: {error}") from None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / _ISSUED).mkdir(exist_ok=True)
        key = ec.generate_private_key(ec.SECP384R1())
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = _builder(subject, subject, key.public_key(), key.public_key(), now, lifetime)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        root = builder.add_extension(usage, critical=True).sign(key, hash_for(key))
        encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
        with _locked(folder):
            _write(folder / _KEY, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), 0o600)
            _write(folder / _ROOT, root.public_bytes(Encoding.PEM), 0o644)
        made = cls(folder)
        made.sign_crl(now=now, passphrase=passphrase, lifetime=crl_lifetime)
        return made

    @property
    def crl_file(self) -> Path:
        """The present revocation list (PEM)."""
        return self.folder / _CRL

    @property
    def root_file(self) -> Path:
        """The authority's certificate (PEM)."""
        return self.folder / _ROOT

    # --- issuing -------------------------------------------------------------------------------

    def issue(self, request: Request, *, now: datetime, passphrase: bytes | None = None, lifetime: timedelta) -> Issued:
        """Certify a device's key.

        :raises UsageError: the passphrase is wrong, or the authority would end before the certificate
        """
        key = self._key(passphrase)
        if now + lifetime > self.root.not_valid_after_utc:
            raise UsageError(
                f"the authority's own certificate ends earlier, on {self.root.not_valid_after_utc:%Y-%m-%d}"
            )
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        # An empty subject makes the subjectAltName critical (RFC 5280 4.1.2.6).
        builder = _builder(
            x509.Name([]), self.root.subject, request.csr.public_key(), self.root.public_key(), now, lifetime
        )
        builder = builder.add_extension(subject_alternative_name(request.client.addresses), critical=True)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([IM_URI]), critical=False)
        certificate = builder.sign(key, hash_for(key))
        with _locked(self.folder):
            path = self.folder / _ISSUED / f"{_serial(certificate)}.pem"
            _write(path, certificate.public_bytes(Encoding.PEM), 0o644)
        return Issued(request.client, request.key, certificate)

    def issued(self) -> list[Issued]:
        """All certificates issued, the oldest first.

        :raises UsageError: a file cannot be read
        """
        crl = self.crl()
        found = []
        for path in sorted((self.folder / _ISSUED).glob("*.pem")):
            try:
                certificate = x509.load_pem_x509_certificate(path.read_bytes())
                client = ClientIdentity.from_addresses(xmpp_addresses(certificate))
                key = certified_key(certificate)[1]
            except (*UNREADABLE, PeerError) as error:
                raise UsageError(f"{path} is not a certificate of this authority: {error}") from None
            entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
            found.append(Issued(client, key, certificate, None if entry is None else entry.revocation_date_utc))
        return sorted(found, key=lambda each: (each.certificate.not_valid_before_utc, each.serial))

    # --- revoking ------------------------------------------------------------------------------

    def crl(self) -> x509.CertificateRevocationList:
        """The present revocation list.

        :raises UsageError: it cannot be read
        """
        try:
            return x509.load_pem_x509_crl(self.crl_file.read_bytes())
        except (OSError, *UNREADABLE) as error:
            raise UsageError(f"{self.crl_file} cannot be read: {error}") from None

    def revoke(
        self,
        certificates: Sequence[x509.Certificate],
        *,
        now: datetime,
        reason: x509.ReasonFlags = x509.ReasonFlags.unspecified,
        passphrase: bytes | None = None,
        lifetime: timedelta = timedelta(days=7),
    ) -> x509.CertificateRevocationList:
        """Revoke certificates, and sign a new list with them.

        :param lifetime: until the list must be signed again
        :raises UsageError: the passphrase is wrong
        """
        key = self._key(passphrase)
        with _locked(self.folder):
            return self._sign_crl(key, certificates, reason, now, lifetime)

    def sign_crl(
        self, *, now: datetime, passphrase: bytes | None = None, lifetime: timedelta = timedelta(days=7)
    ) -> x509.CertificateRevocationList:
        """Sign the revocation list again, so that it stays current.

        :raises UsageError: the passphrase is wrong
        """
        return self.revoke((), now=now, passphrase=passphrase, lifetime=lifetime)

    def _sign_crl(
        self,
        key: ec.EllipticCurvePrivateKey,
        certificates: Sequence[x509.Certificate],
        reason: x509.ReasonFlags,
        now: datetime,
        lifetime: timedelta,
    ) -> x509.CertificateRevocationList:
        number, known = 0, []
        if self.crl_file.exists():
            old = self.crl()
            number = old.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            known = list(old)
        there = {entry.serial_number for entry in known}
        for certificate in certificates:
            if certificate.serial_number not in there:
                entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(now)
                if reason is not x509.ReasonFlags.unspecified:  # RFC 5280 5.3.1: then better left out
                    entry = entry.add_extension(x509.CRLReason(reason), critical=False)
                known.append(entry.build())
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.root.subject)
        builder = builder.last_update(now).next_update(now + lifetime)
        builder = builder.add_extension(x509.CRLNumber(number + 1), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        for each in known:
            builder = builder.add_revoked_certificate(each)
        crl = builder.sign(key, hash_for(key))
        _write(self.crl_file, crl.public_bytes(Encoding.PEM), 0o644)
        return crl

    def _key(self, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
        try:
            key = load_pem_private_key((self.folder / _KEY).read_bytes(), passphrase)
        except TypeError:
            wanted = "needs a passphrase" if passphrase is None else "has no passphrase"
            raise UsageError(f"the authority's key {wanted}") from None
        except ValueError:
            raise UsageError("the passphrase is wrong, or the authority's key is damaged") from None
        except OSError as error:
            raise UsageError(f"the authority's key cannot be read: {error.strerror}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UsageError("the authority's key is not an ECDSA key")
        return key

    @property
    def needs_passphrase(self) -> bool:
        """Whether its key is encrypted.

        :raises UsageError: the key cannot be read
        """
        try:
            return b"BEGIN ENCRYPTED" in (self.folder / _KEY).read_bytes()
        except OSError as error:
            raise UsageError(f"the authority's key cannot be read: {error.strerror}") from None


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: object,
    issuer_key: object,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    """The fields that all certificates share."""
    now = now.astimezone(UTC).replace(microsecond=0)
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)  # type: ignore[arg-type]
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - _BACKDATED).not_valid_after(now + lifetime)
    own = x509.SubjectKeyIdentifier.from_public_key(key)  # type: ignore[arg-type]
    others = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key)  # type: ignore[arg-type]
    return builder.add_extension(own, critical=False).add_extension(others, critical=False)


def _serial(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:x}"


# --- files -------------------------------------------------------------------------------------


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Allow one change of the folder at a time, among all processes."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # which ends the lock


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace a file atomically; it is on the disk when this returns."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(handle, mode)
            os.fsync(handle)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
