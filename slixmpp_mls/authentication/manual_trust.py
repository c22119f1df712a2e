"""People as Authentication Service: a person's decision about a key outranks the server's answer.

It stands around another service, which answers for all keys that nobody has decided on:

=====================================  ==========================  ======================================
the leaf's key                         the inner service says      verdict
=====================================  ==========================  ======================================
verified                               ``VALID``, ``UNKNOWN``      ``VALID``
verified                               ``INVALID``, since the      ``VALID``: a list that contradicts what
                                       key is another one, or      people have compared is wrong
                                       the device not listed
verified                               ``INVALID``, for another    that: people have compared a key, which
                                       reason                      does not make a retired device come back
distrusted                             anything                    ``INVALID`` (``refused``)
replaced by its own holder             anything                    that
known as another device's              anything                    ``INVALID`` (``other-device``)
neither; another key of this device    anything                    ``INVALID`` (``key-changed``)
is verified
neither, met before any other key of   ``VALID``                   ``UNKNOWN`` (``not-verified``), by the rule
this account was verified                                          for unverified keys
the same                               ``UNKNOWN``                 that
neither, met later than that           not ``INVALID``             ``INVALID`` (``not-verified``), by that rule
neither                                anything                    that
=====================================  ==========================  ======================================

The rule for unverified keys is, by default, XEP-0450's: once one key of an account has been verified, its
others are not used until they have been as well.  (The account's own devices can see to it by trust messages,
see :mod:`.automatic_trust`.)  Otherwise comparing would help little against an account's server, which
would just list one more device.  A key that was used for a while without comparison is only reported, so that
nobody's devices fly out of groups because another one of theirs was compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..identity import TrustLevel
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.structures.leaf_node import LeafNode
from .interface import VALID, AuthenticationService, Verdict, named_client
from .key_recording import KeyRecordingService
from .trust_on_first_use import NewDeviceRule
from .trust_table import Keys, Source, TrustTable

__all__ = ["ManualTrust"]

# Reasons that are contradictions about which key it is, or want of knowledge.  All others (the device has been
# retired, a certificate revoked ...) are about something that no comparison of keys can decide.
_OUTRANKED: Final = frozenset({"no-device", "other-key", "not-readable", "key-changed", "new-device", "undecided"})


class ManualTrust(KeyRecordingService):
    """Levels of trust around another service.

    Besides the inner service's, all methods raise :class:`StoreError` if the store fails.

    :param inner: answers for keys on which nobody has decided
    :param table: holds the levels
    :param unverified: the verdict on an unverified key of an account that has verified keys, if `inner`
        has nothing against it: ``ACCEPT`` it, ``ASK`` (``UNKNOWN``, ``not-verified``),
        ``REFUSE`` (the same for keys that were met before the first was verified, ``INVALID`` for later ones)
    """

    def __init__(
        self,
        inner: AuthenticationService,
        table: TrustTable,
        *,
        unverified: NewDeviceRule = NewDeviceRule.REFUSE,
    ) -> None:
        super().__init__(inner, table)
        self._unverified = unverified
        table.on_change(lambda change: self._changes.tell(change.account))

    async def validate(self, leaves: Sequence[LeafNode], suite: CipherSuite) -> list[Verdict]:
        """See :meth:`AuthenticationService.validate` and the table above."""
        vouched = await self.inner.validate(leaves, suite)
        with self._table.open() as keys:
            return [
                self._judge(keys, leaf, suite.signature_scheme, verdict)
                for leaf, verdict in zip(leaves, vouched, strict=True)
            ]

    def _judge(self, keys: Keys, leaf: LeafNode, scheme: int, vouched: Verdict) -> Verdict:
        client = named_client(leaf)
        if isinstance(client, Verdict):
            return vouched if vouched.is_invalid else client
        if vouched.is_invalid and vouched.reason not in _OUTRANKED:
            return vouched
        key = keys.meet(client, scheme, leaf.signature_key)
        if key.level is TrustLevel.DISTRUSTED:
            return Verdict.invalid("refused", f"this key of {client} is distrusted")
        if key.is_anothers(client):
            return Verdict.invalid("other-device", f"the key of {client} is that of another device")
        if key.level is TrustLevel.VERIFIED:
            return VALID
        if key.source is Source.REPLACED:
            return vouched
        verified = [key for key in keys.of(client.account) if key.level is TrustLevel.VERIFIED]
        if any(key.belongs_to(client, scheme) for key in verified):
            return Verdict.invalid("key-changed", f"another key of {client} has been verified")
        # Our own key is nobody's comparison: our account's other devices are not measured by it.
        if vouched.is_invalid or all(key.source is Source.SELF for key in verified):
            return vouched
        if self._unverified is NewDeviceRule.ACCEPT:
            return vouched
        text = f"{client} has not been verified, unlike others of its account"
        first = min(one.since for one in verified if one.source is not Source.SELF)
        if self._unverified is NewDeviceRule.ASK or key.since < first:
            return Verdict.unknown("not-verified", text) if vouched.is_valid else vouched
        return Verdict.invalid("not-verified", text)
