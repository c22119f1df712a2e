"""What stands in a stanza in place of a Commit or a Welcome that no stanza holds (the XEP's "Large Groups ...").

::

    too large ──► encrypted blob on a web server ◄── <commit-location/>, <welcome-location/> in the room

The location has the Commit's place in the room's order.  Anybody could write one, and cause every member to contact a
web server; so a member signs it with the key of its leaf, and receivers check that before they fetch anything
(:func:`verify`).  A Welcome's location names the KeyPackages for which the Welcome is: only their owners fetch it.  (A
Welcome itself names them in clear, too.)

The key of the blob is in the location, for everybody in the room: what is in the blob is as public as a Commit and a
Welcome in a stanza, whose contents MLS encrypts.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from ..errors import InvalidError, MalformedError
from ..mls.crypto.cipher_suite import CipherSuite, SignaturePrivateKey
from ..mls.structures.commit import MAX_PROPOSALS
from ..mls.tls import AtMost, Struct, opaque, struct, uint32, uint64
from .blob import BlobReference

__all__ = ["CommitPlace", "WelcomePlace", "commit_place", "verify"]

_LABEL = "MLS-XMPP 1.0 commit location"
_MAX_REFERENCE = 64  # octets of a KeyPackageRef: the longest hash of a cipher suite


@struct
class _CommitPlaceTBS(Struct):
    secret: ClassVar[bool] = True
    group_id: opaque
    epoch: uint64
    blob: BlobReference
    signer: uint32


@struct
class CommitPlace(Struct):
    """The content of a ``<commit-location/>``.

    :ivar blob: the Commit, an MLSMessage
    :ivar signer: leaf index of the committer
    :ivar signature: ``SignWithLabel`` with its leaf's key, over group id, epoch, `blob` and `signer`
    """

    secret: ClassVar[bool] = True
    blob: BlobReference
    signer: uint32
    signature: opaque


@struct
class WelcomePlace(Struct):
    """The content of a ``<welcome-location/>``.

    :ivar new_members: the KeyPackageRefs that the Welcome names, in its order
    :ivar blob: the Welcome, an MLSMessage
    """

    secret: ClassVar[bool] = True
    new_members: Annotated[tuple[opaque, ...], AtMost(MAX_PROPOSALS)]
    blob: BlobReference

    @classmethod
    def read(cls, data: bytes) -> WelcomePlace:
        """Decode, and check the references.

        :raises MalformedError: it is none
        """
        place = cls.decode(data)
        if not place.new_members or max(map(len, place.new_members)) > _MAX_REFERENCE:
            raise MalformedError("the location of a Welcome for nobody")
        return place


def commit_place(
    suite: CipherSuite, key: SignaturePrivateKey, signer: int, group_id: bytes, epoch: int, blob: BlobReference
) -> CommitPlace:
    """The signed location of a Commit.

    :param signer: our leaf index
    :param epoch: the one that the Commit ends
    """
    signed = _CommitPlaceTBS(group_id, epoch, blob, signer).encode()
    return CommitPlace(blob, signer, suite.sign_with_label(key, _LABEL, signed))


def verify(place: CommitPlace, suite: CipherSuite, signature_key: bytes, group_id: bytes, epoch: int) -> None:
    """Check that a member has signed a location.

    :param signature_key: of the leaf at `place.signer`
    :raises InvalidError: it has not
    """
    signed = _CommitPlaceTBS(group_id, epoch, place.blob, place.signer).encode()
    try:
        suite.verify_with_label(signature_key, _LABEL, signed, place.signature)
    except InvalidError as error:
        raise InvalidError("the location of a Commit that no member has signed", "urn:xmpp:mls:0 large") from error
