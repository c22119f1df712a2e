"""What proves an arrival, when nobody who may add has added it: extensions of its leaf.

A name is no proof.  What proves is a signature by a key that is in the group's tree:

=================  =====================================================================================
`ReturnKey`        A public key in each leaf, made afresh with it.  Its private key will prove that whoever
                   replaces this leaf holds the state that made it.
`ReturnProof`      In a leaf that replaces an old one of the same client: a signature by the old leaf's
                   return key.  It covers the group, the old return key, and the new leaf's identity and keys.
`DeviceVouchers`   In a leaf of another device of an account: signatures by devices of that account, over the
                   new device's identity and signature key, and a validity time.
`Newcomer`         In a leaf that nobody vouches for, where the policy lets anybody in.  It stays there until
                   somebody who may add replaces the leaf by an Add.
=================  =====================================================================================

*The return key* is derived from the private encryption key of its leaf (:func:`derive_return_key`): it needs no place
of its own in a store, and whatever heals the leaf heals it.  A Commit or an Update of the client makes the old one
useless, so whoever has stolen an older state cannot come back by it.  (RFC 9420 12.4.3.2 would use a resumption PSK
for a resync; members that joined later do not have it and could not follow.)

*A return proof cannot be moved.*  To another group: the group id is signed.  To another leaf: the new leaf's
encryption key is signed, whose private part only its maker has.  To another time: the old return key is signed, and
the proof counts only while a leaf with that key is in the tree, which the return itself ends.

*A voucher* is not bound to a group, for it is made once, when the account's owner admits the device.  It counts in
each group in which its issuer's leaf has the key that signed it.  Its validity time is for those who act on it:
inviters and committers hold it against their clock.  Whether a Commit counts does not depend on it, for clocks
differ, and a Commit is read weeks later from an archive.  What makes an old voucher void for all members alike is in
the group: its issuer has left, or has another signature key, or the device is on the list of
:mod:`.removed_clients`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, ClassVar

from ..errors import InvalidError
from ..identity import ClientIdentity
from ..mls.crypto.cipher_suite import CipherSuite, HPKEPrivateKey, SignaturePrivateKey
from ..mls.structures.extensions import ExtensionContent
from ..mls.structures.leaf_node import LeafNode, Lifetime
from ..mls.tls import Struct, opaque, struct
from ..stanza.code_points import DEVICE_VOUCHERS, NEWCOMER, RETURN_KEY, RETURN_PROOF
from .codecs import Bounded

__all__ = [
    "LEAF_EXTENSIONS", "MAX_PROOFS", "MAX_VOUCHERS", "DeviceVoucher", "DeviceVouchers", "Newcomer", "ReturnKey",
    "ReturnProof", "ReturnSignature", "derive_return_key", "is_newcomer", "prove_return", "proves_return",
    "return_key_of", "vouch", "vouches",
]  # fmt: skip

MAX_PROOFS = 4
"""Return keys of which one may be the old leaf's: the present one, and those of Commits and Updates under way."""
MAX_VOUCHERS = 4
"""Devices that vouch: not each of them is in each group."""

_RETURN = "MLS-XMPP 1.0 return"
_VOUCHER = "MLS-XMPP 1.0 device voucher"
_RETURN_KEY = "MLS-XMPP 1.0 return key"


@struct
class ReturnKey(ExtensionContent):
    """A leaf's own return key: a public key of the group's signature scheme."""

    TYPE: ClassVar[int] = RETURN_KEY
    return_key: opaque


@struct
class ReturnSignature(Struct):
    """A signature, and the return key that it is to be verified with."""

    return_key: opaque
    signature: opaque


@struct
class ReturnProof(ExtensionContent):
    """1 to `MAX_PROOFS` signatures; one of them must be by the return key of the leaf that is replaced."""

    TYPE: ClassVar[int] = RETURN_PROOF
    signatures: Annotated[tuple[ReturnSignature, ...], Bounded(ReturnSignature.codec, 1, MAX_PROOFS)]


@struct
class DeviceVoucher(Struct):
    """A device's word for another one of the same account.

    :ivar issuer: identity of the device that vouches, UTF-8
    :ivar lifetime: seconds since the Unix epoch, for those who act on it
    """

    issuer: opaque
    lifetime: Lifetime
    signature: opaque


@struct
class DeviceVouchers(ExtensionContent):
    """1 to `MAX_VOUCHERS` of them."""

    TYPE: ClassVar[int] = DEVICE_VOUCHERS
    vouchers: Annotated[tuple[DeviceVoucher, ...], Bounded(DeviceVoucher.codec, 1, MAX_VOUCHERS)]


@struct
class Newcomer(ExtensionContent):
    """The mark of a leaf that has let itself in without proof; it has no content."""

    TYPE: ClassVar[int] = NEWCOMER


LEAF_EXTENSIONS: tuple[type[ExtensionContent], ...] = (ReturnKey, ReturnProof, DeviceVouchers, Newcomer)


@struct
class _ReturnTBS(Struct):
    """What a return key signs.

    :ivar old_return_key: its public part
    :ivar return_key: of the new leaf, empty if it has none
    """

    group_id: opaque
    old_return_key: opaque
    identity: opaque
    encryption_key: opaque
    signature_key: opaque
    return_key: opaque


@struct
class _VoucherTBS(Struct):
    """What a device signs that vouches for another."""

    issuer: opaque
    identity: opaque
    signature_key: opaque
    lifetime: Lifetime


# --- return ----------------------------------------------------------------------------------


def derive_return_key(suite: CipherSuite, leaf_key: HPKEPrivateKey) -> SignaturePrivateKey:
    """The return key of the leaf with this private encryption key."""
    secret = suite.extract(_RETURN_KEY.encode(), leaf_key.encode())
    return suite.generate_signature_key(lambda size: suite.expand_with_label(secret, _RETURN_KEY, b"", size))


def return_key_of(leaf: LeafNode) -> bytes | None:
    """The public return key in a leaf.

    :raises MalformedError: it cannot be read
    """
    found = ReturnKey.found_in(leaf.extensions)
    return None if found is None else found.return_key


def is_newcomer(leaf: LeafNode) -> bool:
    """Whether a leaf bears the mark.  How it is spelled is checked when it arrives."""
    return any(entry.extension_type == NEWCOMER for entry in leaf.extensions)


def prove_return(
    suite: CipherSuite, group_id: bytes, keys: Iterable[SignaturePrivateKey], leaf: LeafNode
) -> ReturnProof:
    """The proof for a new leaf.

    :param keys: private return keys, one of which belongs to the leaf that is replaced; the first `MAX_PROOFS` count
    :param leaf: the new one, complete but for this proof, source and signature
    """
    made = []
    for key in list(keys)[:MAX_PROOFS]:
        signed = _return_tbs(group_id, key.public, leaf)
        made.append(ReturnSignature(key.public, suite.sign_with_label(key, _RETURN, signed)))
    return ReturnProof(tuple(made))


def proves_return(suite: CipherSuite, group_id: bytes, old: LeafNode, new: LeafNode) -> bool:
    """Whether a new leaf is by the same client as an old one, and by its present state.

    Same identity, same signature key (a certificate may have been renewed for it), and a signature by the old leaf's
    return key.

    :raises MalformedError: a proof or a return key cannot be read
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
    """A voucher by a device for another one of its account.

    :param suite: any with the signature scheme of both keys
    :param key: the issuer's signature key, which its leaves have
    :param signature_key: the other device's, public
    :raises ValueError: it is the same device, or not of the same account
    """
    if issuer.account != device.account or issuer == device:
        raise ValueError("a device vouches for other devices of its own account")
    signed = _VoucherTBS(_octets(issuer), _octets(device), signature_key, lifetime).encode()
    return DeviceVoucher(_octets(issuer), lifetime, suite.sign_with_label(key, _VOUCHER, signed))


def vouches(
    suite: CipherSuite, voucher: DeviceVoucher, issuer_key: bytes, device: ClientIdentity, signature_key: bytes
) -> bool:
    """Whether a voucher is for this device with this key, signed by `issuer_key`.  Looks at no clock."""
    signed = _VoucherTBS(voucher.issuer, _octets(device), signature_key, voucher.lifetime).encode()
    return _holds(suite.id, issuer_key, _VOUCHER, signed, voucher.signature)


def _octets(client: ClientIdentity) -> bytes:
    return str(client).encode()


@lru_cache(maxsize=1024)
def _holds(suite: int, key: bytes, label: str, signed: bytes, signature: bytes) -> bool:
    """Kept for a while: one proof is judged when it is proposed, chosen, committed and processed."""
    try:
        CipherSuite.get(suite).verify_with_label(key, label, signed, signature)
    except InvalidError:
        return False
    return True
