"""Leaf extensions that prove the admission of a client that no account with `may_add` has added.

A name is not a proof.  A proof is a signature by a key in the group's ratchet tree:

=================  =====================================================================================
`ReturnKey`        A public key in each leaf, generated together with the leaf.  A signature by its private
                   key later proves that the client that replaces the leaf holds the state that made it.
`ReturnProof`      In a leaf that replaces an old leaf of the same client: a signature by the old leaf's
                   return key.  It covers the group, the old return key, and the new leaf's identity and keys.
`DeviceVouchers`   In a leaf of another device of an account: signatures by devices of that account.  Each
                   covers the new device's identity and signature key, and a lifetime.  In the leaf of a
                   KeyPackage: the device's own vouchers, by its keys of other signature schemes.
`Newcomer`         In a leaf without any proof, where the policy lets anybody join.  It remains until an
                   account with `may_add` replaces the leaf by an Add.
=================  =====================================================================================

*The return key* is derived from the private encryption key of its leaf (:func:`derive_return_key`).  It needs no
record of its own in a store, and an operation that heals the leaf's key heals the return key as well.  A Commit or an
Update of the client makes the old return key useless.  Therefore a stolen older state cannot be used to return.
(RFC 9420 12.4.3.2 suggests a resumption PSK for a resync.  Members that joined later do not have that PSK and could
not process the Commit.)

*A return proof cannot be replayed elsewhere.*

- In another group: the signature covers the group id.
- For another leaf: the signature covers the new leaf's encryption key, and only the maker of that leaf has its private
  key.
- At another time: the signature covers the old return key.  The proof is valid only while a leaf with that key is in
  the tree, and the return itself removes that leaf.

*A voucher* is not bound to a group: it is made once, when the owner of the account admits the device.  It is valid in
each group in which its issuer's leaf has the key that signed it.  Inviters and committers compare its lifetime with
their clock before they act on it.  The validity of a Commit does not depend on the lifetime, because clocks differ and
a Commit may be read from an archive weeks later.  The group's own state invalidates an old voucher, for all members
alike: its issuer has left, its issuer has another signature key, or the device is on the list of
:mod:`.removed_clients`.

*A device's own voucher* (its issuer is the device that it is for) proves that a device has several keys.  A device has
one key for each signature scheme, and a group has the keys of one scheme.  When a group continues in a suite with
another scheme (RFC 9420 11.2), all its keys are new, and such a voucher is what binds them to the former ones
(:mod:`.continuation`).  It proves nothing in an Add: its issuer is another key of the same device, not another member.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, ClassVar

from ..errors import InvalidError
from ..identity import ClientIdentity
from ..mls.crypto.cipher_suite import CipherSuite, HPKEPrivateKey, SignaturePrivateKey
from ..mls.structures.extensions import ExtensionContent
from ..mls.structures.leaf_node import KeyPackageSource, LeafNode, Lifetime
from ..mls.tls import Struct, opaque, struct
from ..stanza.code_points import DEVICE_VOUCHERS, NEWCOMER, RETURN_KEY, RETURN_PROOF
from .codecs import Bounded

__all__ = [
    "LEAF_EXTENSIONS", "MAX_PROOFS", "MAX_VOUCHERS", "DeviceVoucher", "DeviceVouchers", "Newcomer", "ReturnKey",
    "ReturnProof", "ReturnSignature", "derive_return_key", "is_newcomer", "prove_return", "proves_return",
    "return_key_of", "vouch", "vouch_for_own_key", "vouches", "vouches_for_own_key",
]  # fmt: skip

MAX_PROOFS = 4
"""Signatures in a `ReturnProof`.  The old leaf may have the present return key, or one of a Commit or an Update whose
reflection is still awaited."""
MAX_VOUCHERS = 4
"""Vouchers in a leaf.  Several are useful because not every issuer is in every group."""

_RETURN = "MLS-XMPP 1.0 return"
_VOUCHER = "MLS-XMPP 1.0 device voucher"
_RETURN_KEY = "MLS-XMPP 1.0 return key"


@struct
class ReturnKey(ExtensionContent):
    """The return key of a leaf: a public key of the group's signature scheme."""

    TYPE: ClassVar[int] = RETURN_KEY
    return_key: opaque


@struct
class ReturnSignature(Struct):
    """A signature and the return key that verifies it."""

    return_key: opaque
    signature: opaque


@struct
class ReturnProof(ExtensionContent):
    """1 to `MAX_PROOFS` signatures, of which one must verify with the return key of the replaced leaf."""

    TYPE: ClassVar[int] = RETURN_PROOF
    signatures: Annotated[tuple[ReturnSignature, ...], Bounded(ReturnSignature.codec, 1, MAX_PROOFS)]


@struct
class DeviceVoucher(Struct):
    """A statement, signed by one device, that another device belongs to the same account.

    :ivar issuer: identity of the device that vouches, UTF-8
    :ivar lifetime: seconds since the Unix epoch; inviters and committers check it, the validity of a Commit does not
        depend on it
    """

    issuer: opaque
    lifetime: Lifetime
    signature: opaque


@struct
class DeviceVouchers(ExtensionContent):
    """1 to `MAX_VOUCHERS` vouchers."""

    TYPE: ClassVar[int] = DEVICE_VOUCHERS
    vouchers: Annotated[tuple[DeviceVoucher, ...], Bounded(DeviceVoucher.codec, 1, MAX_VOUCHERS)]


@struct
class Newcomer(ExtensionContent):
    """Marks a leaf that has joined without any proof.  The extension has no content."""

    TYPE: ClassVar[int] = NEWCOMER


LEAF_EXTENSIONS: tuple[type[ExtensionContent], ...] = (ReturnKey, ReturnProof, DeviceVouchers, Newcomer)


@struct
class _ReturnTBS(Struct):
    """The content that a return key signs.

    :ivar old_return_key: the public part of the signing key
    :ivar identity: of the new leaf, as are the keys
    :ivar return_key: of the new leaf; empty if it has none
    """

    group_id: opaque
    old_return_key: opaque
    identity: opaque
    encryption_key: opaque
    signature_key: opaque
    return_key: opaque


@struct
class _VoucherTBS(Struct):
    """The content that the issuer of a voucher signs."""

    issuer: opaque
    identity: opaque
    signature_key: opaque
    lifetime: Lifetime


# --- return ----------------------------------------------------------------------------------


def derive_return_key(suite: CipherSuite, leaf_key: HPKEPrivateKey) -> SignaturePrivateKey:
    """Derive the return key of the leaf with this private encryption key."""
    secret = suite.extract(_RETURN_KEY.encode(), leaf_key.encode())
    return suite.generate_signature_key(lambda size: suite.expand_with_label(secret, _RETURN_KEY, b"", size))


def return_key_of(leaf: LeafNode) -> bytes | None:
    """The public return key in a leaf; None if the leaf has none.

    :raises MalformedError: the extension cannot be parsed
    """
    found = ReturnKey.found_in(leaf.extensions)
    return None if found is None else found.return_key


def is_newcomer(leaf: LeafNode) -> bool:
    """Whether a leaf has the Newcomer extension.  The extension's encoding is checked when the leaf enters."""
    return any(entry.extension_type == NEWCOMER for entry in leaf.extensions)


def prove_return(
    suite: CipherSuite, group_id: bytes, keys: Iterable[SignaturePrivateKey], leaf: LeafNode
) -> ReturnProof:
    """Make the return proof for a new leaf.

    :param keys: private return keys, of which one belongs to the replaced leaf; only the first `MAX_PROOFS` are used
    :param leaf: the new leaf, complete except for this proof, its source and its signature
    """
    made = []
    for key in list(keys)[:MAX_PROOFS]:
        signed = _return_tbs(group_id, key.public, leaf)
        made.append(ReturnSignature(key.public, suite.sign_with_label(key, _RETURN, signed)))
    return ReturnProof(tuple(made))


def proves_return(suite: CipherSuite, group_id: bytes, old: LeafNode, new: LeafNode) -> bool:
    """Whether a new leaf proves that it comes from the present state of the same client as an old leaf.

    Both leaves have the same identity and the same signature key, and the new leaf has a signature by the old leaf's
    return key.  The credential may differ: a certificate for the same key may have been renewed.

    :raises MalformedError: a proof or a return key cannot be parsed
    """
    if old.signature_key != new.signature_key or ClientIdentity.from_leaf(old) != ClientIdentity.from_leaf(new):
        return False
    key, proof = return_key_of(old), ReturnProof.found_in(new.extensions)
    if key is None or proof is None:
        return False
    signed = _return_tbs(group_id, key, new)
    return any(
        entry.return_key == key and _holds(suite.id, key, _RETURN, signed, entry.signature)
        for entry in proof.signatures
    )


def _return_tbs(group_id: bytes, old_return_key: bytes, leaf: LeafNode) -> bytes:
    return _ReturnTBS(
        group_id=group_id,
        old_return_key=old_return_key,
        identity=_octets(ClientIdentity.from_leaf(leaf)),
        encryption_key=leaf.encryption_key,
        signature_key=leaf.signature_key,
        return_key=return_key_of(leaf) or b"",
    ).encode()


# --- vouchers --------------------------------------------------------------------------------


def vouch(
    suite: CipherSuite,
    key: SignaturePrivateKey,
    issuer: ClientIdentity,
    device: ClientIdentity,
    signature_key: bytes,
    lifetime: Lifetime,
) -> DeviceVoucher:
    """Make a voucher by one device for another device of the same account.

    :param suite: any cipher suite with the signature scheme of both keys
    :param key: the issuer's private signature key, whose public part is in its leaves
    :param signature_key: the public signature key of `device`
    :raises ValueError: `device` is the issuer itself, or belongs to another account
    """
    if issuer.account != device.account or issuer == device:
        raise ValueError("a device vouches for other devices of its own account")
    return _vouch(suite, key, issuer, device, signature_key, lifetime)


def vouch_for_own_key(
    suite: CipherSuite, key: SignaturePrivateKey, device: ClientIdentity, signature_key: bytes, lifetime: Lifetime
) -> DeviceVoucher:
    """Make a device's own voucher, by one of its keys for its key of another signature scheme.

    :param suite: any cipher suite with the signature scheme of `key`
    :param signature_key: the public key that the voucher is for
    :param lifetime: of the KeyPackage that will contain it
    """
    return _vouch(suite, key, device, device, signature_key, lifetime)


def _vouch(
    suite: CipherSuite,
    key: SignaturePrivateKey,
    issuer: ClientIdentity,
    device: ClientIdentity,
    signature_key: bytes,
    lifetime: Lifetime,
) -> DeviceVoucher:
    signed = _VoucherTBS(_octets(issuer), _octets(device), signature_key, lifetime).encode()
    return DeviceVoucher(_octets(issuer), lifetime, suite.sign_with_label(key, _VOUCHER, signed))


def vouches(
    suite: CipherSuite, voucher: DeviceVoucher, issuer_key: bytes, device: ClientIdentity, signature_key: bytes
) -> bool:
    """Whether a voucher is for this device with this signature key, and is signed by `issuer_key`.

    The lifetime is not compared with a clock.
    """
    signed = _VoucherTBS(voucher.issuer, _octets(device), signature_key, voucher.lifetime).encode()
    return _holds(suite.id, issuer_key, _VOUCHER, signed, voucher.signature)


def vouches_for_own_key(suite: CipherSuite, key: bytes, leaf: LeafNode) -> bool:
    """Whether a leaf has its device's own voucher by this key.

    The validity of a group must not depend on a clock.  So a voucher counts in the leaf of a KeyPackage if its lifetime
    includes that of the KeyPackage: whoever adds the KeyPackage has compared that with its clock (RFC 9420 10.1).

    :param suite: of the group whose leaf of this device has the key
    :param key: public
    :raises MalformedError: the vouchers cannot be parsed
    :raises InvalidError: the leaf's credential names no client
    """
    found, client = DeviceVouchers.found_in(leaf.extensions), ClientIdentity.from_leaf(leaf)
    for voucher in () if found is None else found.vouchers:
        if voucher.issuer != _octets(client):
            continue
        if isinstance(leaf.source, KeyPackageSource) and not _includes(voucher.lifetime, leaf.source.lifetime):
            continue
        if vouches(suite, voucher, key, client, leaf.signature_key):
            return True
    return False


def _includes(outer: Lifetime, inner: Lifetime) -> bool:
    return outer.not_before <= inner.not_before and inner.not_after <= outer.not_after


def _octets(client: ClientIdentity) -> bytes:
    return str(client).encode()


@lru_cache(maxsize=1024)
def _holds(suite: int, key: bytes, label: str, signed: bytes, signature: bytes) -> bool:
    """Whether a signature verifies.

    Results are cached: one proof is judged when it is proposed, selected, committed and processed.
    """
    try:
        CipherSuite.get(suite).verify_with_label(key, label, signed, signature)
    except InvalidError:
        return False
    return True
