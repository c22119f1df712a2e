"""Certification authorities as Authentication Service: X.509 credentials (RFC 9420 5.3) and their issuers.

A leaf is valid if all of these checks pass, in this order:

==============================================================  =====================  =====================
what is asked                                                   if not                 where it is said
==============================================================  =====================  =====================
the credential is of type x509                                  ``no-certificate``     RFC 9420 5.3
the certificate names one account and one device of it          ``no-client``          :mod:`~.identity.client_identity`
it certifies the leaf's signature key, for the suite's scheme   ``other-key``          RFC 9420 5.3
it is no authority's own (cA is false)                          ``wrong-usage``        RFC 5280 4.2.1.9
its key may sign: keyUsage, if there, has digitalSignature      ``wrong-usage``        RFC 5280 4.2.1.3
extendedKeyUsage, if there, has id-kp-imUri or any              ``wrong-usage``        RFC 9734
every certificate is within its validity                        ``expired``,           RFC 5280 6.1.3
                                                                ``not-yet-valid``
a path leads to a configured root                               ``untrusted``          RFC 5280 6.1
no certificate of the path is revoked                           ``revoked``            RFC 5280 6.3
every authority of the path has a current revocation list       ``no-revocation-       the same
                                                                list``
==============================================================  =====================  =====================

Paths are built and validated by `cryptography`, with its rules for the web's authorities but for names and usages.
Authorities must therefore have ECDSA or RSA keys; keys of devices may be of any cipher suite.

The last check is made only if revocation lists are configured; its verdict is `without_list` (``UNKNOWN`` by default).
A certificate on an outdated list remains revoked.  The module does not read lists with a critical extension, such as
partial or delta lists (RFC 5280 5.2).

Roots and lists are files or octets; URLs in certificates are not followed, since a request would reveal our address and
our interest to their author.  Changed files are read again.  If a file cannot be read any more, its earlier contents
stay valid, so that the replacement of a list locks nobody out.  While there are subscribers, files and clock are
checked periodically, and expiry is reported in the same way as revocation.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from ..errors import InvalidError, UsageError
from ..identity import ClientIdentity
from ..identity.certificates import IM_URI, MAX_CHAIN, UNREADABLE, certified_key, chain_of, extensions_of
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.structures.credential import X509Credential
from ..mls.structures.leaf_node import LeafNode
from .callbacks import Listeners, Recent
from .interface import VALID, AuthenticationService, Validity, Verdict, named_client

__all__ = ["Source", "X509Service"]

log = logging.getLogger(__name__)

Source = str | os.PathLike[str] | bytes
"""A file's path, or PEM."""

MAX_FILE = 64 << 20  # octets of a file of roots or of a revocation list
MAX_REMEMBERED = 5000  # leaves whose verdicts are watched
_NEVER = datetime.max.replace(tzinfo=UTC)
_AT_ONCE = 16  # leaves judged before other tasks run


class X509Service(AuthenticationService):
    """Leaves are valid if their certificate is.

    :param roots: certificates (PEM) of the trusted authorities, one source or several
    :param crls: revocation lists, PEM, or DER if a file; none: revocation is not looked at
    :param without_list: the verdict on a leaf if one of its authorities has no current list although `crls` are given
    :param max_chain: the most certificates from a device's to the one below a root
    :param interval: seconds between two looks at files and clock, while there are subscribers
    :param clock: seconds since the Unix epoch
    :raises UsageError: a source cannot be read, or there is no root
    """

    def __init__(
        self,
        roots: Source | Sequence[Source],
        *,
        crls: Source | Sequence[Source] = (),
        without_list: Validity = Validity.UNKNOWN,
        max_chain: int = MAX_CHAIN,
        interval: float = 300.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._roots, self._crls = _several(roots), _several(crls)
        self._without_list = without_list
        self._max_chain = max_chain
        self._interval = interval
        self._clock = clock
        self._judged: Recent[bytes, _Judged] = Recent(MAX_REMEMBERED)
        self._listeners: Listeners[str] = Listeners()
        self._subscribed = 0
        self._watching: asyncio.Task[None] | None = None
        self._stamps = self._look()
        self._believed = _Believed.read(self._roots, self._crls)

    # --- services ------------------------------------------------------------------------------

    async def issue(
        self,
        client: ClientIdentity,
        keys: Mapping[int, bytes],
        *,
        label: str | None = None,
        also: Mapping[int, bytes] | None = None,
    ) -> None:
        """Nothing to do: an authority issues on request, and elsewhere (see
        :mod:`slixmpp_mls.identity.certificate_authority`)."""

    async def validate(self, leaves: Sequence[LeafNode], suite: CipherSuite) -> list[Verdict]:
        """See the table above.  Makes no network requests."""
        verdicts = []
        for number, leaf in enumerate(leaves, 1):
            verdicts.append(self._verdict(leaf, suite))
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return verdicts

    def subscribe(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """See :meth:`AuthenticationService.subscribe`.  To be called in the event loop."""
        end = self._listeners.add(changed)
        self._subscribed += 1
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch(), name="mls certificates")
        ended = False

        def unsubscribe() -> None:
            nonlocal ended
            end()
            self._subscribed -= not ended
            ended = True
            if not self._subscribed and self._watching is not None:
                self._watching.cancel()
                self._watching = None

        return unsubscribe

    # --- changes -------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Read changed files again, and tell subscribers which verdicts have changed."""
        stamps = self._look()
        if stamps != self._stamps:
            try:
                self._believed = _Believed.read(self._roots, self._crls)
                self._stamps = stamps
            except UsageError as error:
                log.warning("authorities and revocation lists remain as they were: %s", error)
        changed: dict[str, None] = {}
        count = 0
        for key, old in list(self._judged.items()):
            now = self._now()
            if not old.holds(self._believed, now):
                new = self._judged[key] = self._judge(old.leaf, old.suite, old.client, now)
                if new.verdict != old.verdict:
                    changed[new.client.account] = None
                count += 1
                if count % _AT_ONCE == 0:
                    await asyncio.sleep(0)
        for account in changed:
            self._listeners.tell(account)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.refresh()
            except Exception:  # revocations are looked for all the same, the next time
                log.exception("looking at certificates and revocation lists has failed")

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        """A value that changes with the files."""
        return tuple(_stamp(source) for source in (*self._roots, *self._crls))

    # --- judging -------------------------------------------------------------------------------

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _verdict(self, leaf: LeafNode, suite: CipherSuite) -> Verdict:
        if not isinstance(leaf.credential, X509Credential):
            return Verdict.invalid("no-certificate", "no X.509 credential")
        client = named_client(leaf)
        if isinstance(client, Verdict):
            return client
        scheme, now = suite.signature_scheme.to_bytes(2, "big"), self._now()
        key = sha256(scheme + leaf.signature_key + leaf.credential.encode()).digest()
        judged = self._judged.get(key)
        if judged is None or not judged.holds(self._believed, now):
            judged = self._judge(leaf, suite, client, now)
        self._judged[key] = judged
        return judged.verdict

    def _judge(self, leaf: LeafNode, suite: CipherSuite, client: ClientIdentity, now: datetime) -> _Judged:
        assert isinstance(leaf.credential, X509Credential)
        times = list(self._believed.times)
        try:
            certificates = chain_of(leaf.credential)
            for certificate in certificates:
                times += (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
            _check_key(certificates[0], leaf, suite)
            _check_usage(certificates[0])
            verdict = self._revocation(self._path(certificates, now), now, client)
        except InvalidError as error:
            verdict = Verdict.invalid("untrusted", f"{client}: {error}")
        except _Denied as denied:
            verdict = Verdict.invalid(denied.reason, f"{client}: {denied}")
        until = min((time for time in times if time >= now), default=_NEVER)
        return _Judged(client, leaf, suite, verdict, self._believed, now, until)

    def _path(self, certificates: Sequence[x509.Certificate], now: datetime) -> list[x509.Certificate]:
        """RFC 5280 6.1: from the device's certificate to a root."""
        if len(certificates) > self._max_chain:
            raise _Denied("untrusted", f"a chain of more than {self._max_chain} certificates")
        builder = PolicyBuilder().store(self._believed.store).time(now)
        verifier = builder.extension_policies(ca_policy=_CA, ee_policy=_END_ENTITY).build_client_verifier()
        try:
            return verifier.verify(certificates[0], list(certificates[1:])).chain
        except VerificationError as error:
            for certificate in certificates:  # the most frequent reasons have names of their own
                if now > certificate.not_valid_after_utc:
                    raise _Denied("expired", f"a certificate ended on {certificate.not_valid_after_utc}") from None
                if now < certificate.not_valid_before_utc:
                    raise _Denied(
                        "not-yet-valid", f"a certificate begins on {certificate.not_valid_before_utc}"
                    ) from None
            raise _Denied("untrusted", f"no path to a root that we know: {error}") from None

    def _revocation(self, path: Sequence[x509.Certificate], now: datetime, client: ClientIdentity) -> Verdict:
        """RFC 5280 6.3, with the lists that we have."""
        if not self._crls:
            return VALID
        verdict = VALID
        for certificate, issuer in pairwise(path):
            crl = self._believed.list_of(issuer, now)
            if crl is not None and crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
                return Verdict.invalid("revoked", f"{client}: a certificate has been revoked by its authority")
            if (crl is None or crl.next_update_utc is None or now > crl.next_update_utc) and verdict.is_valid:
                text = f"{client}: no current revocation list of {issuer.subject.rfc4514_string()[:100]}"
                verdict = Verdict(self._without_list, "no-revocation-list", text)
        return VALID if verdict.is_valid else verdict


class _Denied(Exception):
    """A certificate is not valid; `reason` as in the table."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Judged:
    """A leaf, its last verdict, and for how long the verdict holds.

    :ivar until: the next time at which a validity begins or ends on which the verdict may depend
    """

    client: ClientIdentity
    leaf: LeafNode
    suite: CipherSuite
    verdict: Verdict
    believed: _Believed
    at: datetime
    until: datetime

    def holds(self, believed: _Believed, now: datetime) -> bool:
        return self.believed is believed and (self.at <= now < self.until or now == self.at)


@dataclass(frozen=True, slots=True)
class _Believed:
    """Roots and revocation lists, as they were read."""

    store: Store
    crls: Mapping[x509.Name, Sequence[x509.CertificateRevocationList]]
    times: Sequence[datetime]
    """When roots and lists begin and end."""
    signed: dict[tuple[int, bytes], bool] = field(default_factory=dict)
    """Which list an issuer has signed, by the list's place in memory and the issuer's fingerprint: asked often."""

    @classmethod
    def read(cls, roots: Iterable[Source], crls: Iterable[Source]) -> _Believed:
        """:raises UsageError: something cannot be read, or there is no root"""
        certificates = []
        for source in roots:
            try:
                certificates += x509.load_pem_x509_certificates(_octets(source))
            except UNREADABLE as error:
                raise UsageError(f"{_name(source)} holds no certificates in PEM: {error}") from None
        if not certificates:
            raise UsageError("no authority is to be believed: no roots")
        lists: dict[x509.Name, list[x509.CertificateRevocationList]] = {}
        for source in crls:
            octets = _octets(source)
            try:
                pem = octets.lstrip().startswith(b"-----BEGIN")
                crl = x509.load_pem_x509_crl(octets) if pem else x509.load_der_x509_crl(octets)
                critical = [extension.oid.dotted_string for extension in crl.extensions if extension.critical]
            except UNREADABLE as error:
                raise UsageError(f"{_name(source)} is no revocation list: {error}") from None
            if critical:  # RFC 5280 5.2: readers that do not know a critical extension must not use the list
                raise UsageError(f"{_name(source)} is a revocation list of a kind that is not known: {critical}")
            lists.setdefault(crl.issuer, []).append(crl)
        times = [time for each in certificates for time in (each.not_valid_before_utc, each.not_valid_after_utc)]
        for crl in (crl for of_one in lists.values() for crl in of_one):
            times += [crl.last_update_utc, *([crl.next_update_utc] if crl.next_update_utc else [])]
        return cls(Store(certificates), lists, times)

    def list_of(self, issuer: x509.Certificate, now: datetime) -> x509.CertificateRevocationList | None:
        """The newest list that an authority has signed, outdated or not."""
        lists = [
            crl
            for crl in self.crls.get(issuer.subject, ())
            if crl.last_update_utc <= now and self._has_signed(issuer, crl)
        ]
        return max(lists, key=lambda crl: crl.last_update_utc, default=None)

    def _has_signed(self, issuer: x509.Certificate, crl: x509.CertificateRevocationList) -> bool:
        key = (id(crl), issuer.fingerprint(SHA256()))
        if key not in self.signed:
            self.signed[key] = _may_sign_lists(issuer) and crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
        return self.signed[key]


# --- checks ------------------------------------------------------------------------------------


def _check_key(certificate: x509.Certificate, leaf: LeafNode, suite: CipherSuite) -> None:
    """RFC 9420 5.3: the certified key MUST be identical to the leaf's; 5.1: it is one for the suite."""
    try:
        certified = certified_key(certificate)
    except InvalidError as error:
        raise _Denied("other-key", str(error)) from None
    if certified != (suite.signature_scheme, leaf.signature_key):
        raise _Denied("other-key", "a certificate for another key than the leaf's")


def _check_usage(certificate: x509.Certificate) -> None:
    extensions = extensions_of(certificate)
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:  # RFC 5280 4.2.1.9
            raise _Denied("wrong-usage", "a certificate of an authority, not of a device")
        if isinstance(value, x509.KeyUsage) and not value.digital_signature:  # RFC 5280 4.2.1.3
            raise _Denied("wrong-usage", "a certificate whose key may not sign")
        if isinstance(value, x509.ExtendedKeyUsage) and not _is_for_messages(value):  # RFC 9734
            raise _Denied("wrong-usage", "a certificate for other purposes than messages")


def _is_for_messages(usage: x509.ExtendedKeyUsage) -> bool:
    return IM_URI in usage or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usage


def _check_authority_usage(_: Policy, certificate: x509.Certificate, usage: x509.ExtendedKeyUsage | None) -> None:
    """An authority that is limited to other purposes (TLS servers, say) certifies nothing here."""
    if usage is not None and not _is_for_messages(usage):
        raise ValueError("an authority for other purposes than messages")


def _may_sign_lists(issuer: x509.Certificate) -> bool:
    """RFC 5280 6.3.3 (f)."""
    try:
        return bool(extensions_of(issuer).get_extension_for_class(x509.KeyUsage).value.crl_sign)
    except (InvalidError, x509.ExtensionNotFound):
        return False


_CA = ExtensionPolicy.webpki_defaults_ca().may_be_present(
    x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _check_authority_usage
)
_END_ENTITY = ExtensionPolicy.permit_all()  # critical ones that are not known are refused all the same


# --- sources -----------------------------------------------------------------------------------


def _several(sources: Source | Sequence[Source]) -> tuple[Source, ...]:
    return (sources,) if isinstance(sources, str | bytes | os.PathLike) else tuple(sources)


def _name(source: Source) -> str:
    return "what was given" if isinstance(source, bytes) else os.fspath(source)


def _octets(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        with Path(source).open("rb") as file:
            octets = file.read(MAX_FILE + 1)
    except OSError as error:
        raise UsageError(f"{_name(source)} cannot be read: {error.strerror}") from None
    if len(octets) > MAX_FILE:
        raise UsageError(f"{_name(source)} has more than {MAX_FILE} octets")
    return octets


def _stamp(source: Source) -> tuple[int, int, int] | None:
    if isinstance(source, bytes):
        return None
    try:
        found = os.stat(source)
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)
