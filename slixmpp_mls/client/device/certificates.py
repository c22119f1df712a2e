"""Requests, checks and stores the device's own certificates, and reports when they expire.

A certificate certifies one signature key.  It therefore serves all cipher suites with the key's signature scheme.
While the present key has a certificate, leaves of those suites have an X509Credential (RFC 9420 5.3); otherwise they
have a BasicCredential.

In the store: space ``device``, key ``chain`` and the scheme (2); value X509Credential.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography import x509

from ...errors import InvalidError, UsageError
from ...identity import ClientIdentity
from ...identity.certificates import certificate_request, certified_key, chain_of, extensions_of
from ...mls.crypto.cipher_suite import SignaturePrivateKey
from ...mls.structures.credential import X509Credential
from ...store.interface import Store

__all__ = ["CertificateExpires", "OwnCertificates"]

SPACE = "device"
_PREFIX = b"chain"
_RENEWAL = 1 / 3  # remaining fraction of its validity at which a certificate is to be renewed


@dataclass(frozen=True, slots=True)
class CertificateExpires:
    """A certificate of ours expires soon, or has expired, and must be replaced.

    :ivar scheme: number of its key's TLS SignatureScheme
    :ivar not_after: its expiry, seconds since the Unix epoch
    :ivar request: the certification request for a new one (PKCS #10, PEM)
    """

    scheme: int
    not_after: int
    request: bytes


class OwnCertificates:
    """The device's certificates, by signature scheme.

    :param keys: the device's present signature keys, by number of their TLS SignatureScheme
    """

    def __init__(
        self, store: Store, identity: ClientIdentity, keys: Callable[[], Mapping[int, SignaturePrivateKey]]
    ) -> None:
        """:raises StoreError: the store failed"""
        self._store = store
        self._identity = identity
        self._keys = keys
        self._chains: dict[int, X509Credential] = {}
        with store.transaction() as transaction:
            for key, value in transaction.items(SPACE, _PREFIX):
                self._chains[int.from_bytes(key[len(_PREFIX) :], "big")] = X509Credential.decode(value)

    def request(self, scheme: int) -> bytes:
        """The certification request for our key of this scheme (PKCS #10, PEM)."""
        return certificate_request(self._identity.addresses, self._keys()[scheme])

    def credential(self, scheme: int) -> X509Credential | None:
        """The certificate for our present identity and key of this scheme, with its chain; None if there is none."""
        chain = self._chains.get(scheme)
        key = self._keys().get(scheme)
        if chain is None or key is None or ClientIdentity.from_credential(chain) != self._identity:
            return None
        return chain if certified_key(chain_of(chain)[0]) == (scheme, key.public) else None

    def use(self, credential: X509Credential, now: int) -> int:
        """Use a certificate from now on; it replaces an earlier one for the same signature scheme.

        :returns: the number of that scheme
        :raises UsageError: it names another client, certifies another key, is not valid for this use, or is not valid
            now
        :raises StoreError: nothing has changed
        """
        scheme = self._check(credential, now)
        with self._store.transaction() as transaction:
            transaction.put(SPACE, _PREFIX + scheme.to_bytes(2, "big"), credential.encode())
        self._chains[scheme] = credential
        return scheme

    def _check(self, credential: X509Credential, now: int) -> int:
        try:
            named = ClientIdentity.from_credential(credential)
            certificate = chain_of(credential)[0]
            scheme, public = certified_key(certificate)
            extensions = extensions_of(certificate)
        except InvalidError as error:
            raise UsageError(f"no certificate of ours: {error}") from error
        key = self._keys().get(scheme)
        if named != self._identity:
            raise UsageError(f"a certificate of {named}, not of {self._identity}")
        if key is None or key.public != public:
            raise UsageError("a certificate for another key than ours")
        for extension in extensions:
            if isinstance(extension.value, x509.KeyUsage) and not extension.value.digital_signature:
                raise UsageError("a certificate whose key may not sign")
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not start.timestamp() <= now <= end.timestamp():
            raise UsageError(f"a certificate that is valid from {start} to {end}")
        return scheme

    def drop(self) -> None:
        """Stop using certificates, and delete them.

        :raises StoreError: nothing has changed
        """
        with self._store.transaction() as transaction:
            transaction.delete_prefix(SPACE, _PREFIX)
        self._chains.clear()

    def due(self, now: int) -> list[CertificateExpires]:
        """The certificates in use of which less than a third of the validity remains."""
        found = []
        for scheme in sorted(self._chains):
            credential = self.credential(scheme)
            if credential is not None:
                certificate = chain_of(credential)[0]
                start = certificate.not_valid_before_utc.timestamp()
                end = certificate.not_valid_after_utc.timestamp()
                if end - now < (end - start) * _RENEWAL:
                    found.append(CertificateExpires(scheme, int(end), self.request(scheme)))
        return found
