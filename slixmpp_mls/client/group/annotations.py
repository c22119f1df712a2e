"""What a member that stays without the ratchet tree asks for, and what members that have it answer.

::

    AnnotationRequest ── key of the epoch ──► <annotation-request/>    leaves to be proved, a Commit, the tree
    Annotations       ── key of the epoch ──► <annotations/>           proofs, a CommitVerdict, where the tree is

Both are encrypted with a key that is exported from the epoch that they are about (RFC 9420 8.5).  The asker is still in
that epoch, and the answering member was.  So the room's server sees neither the question nor the credentials in the
proofs.  All in the room see that the asker has no tree, how far it has read, and that it reads now.  A member that the
Commit removes has that key, too; it has known the tree, or could have asked for it.

A request is signed by its sender's leaf, because each leaf's requests are limited.  Proofs need no signature: they add
up to the tree hash that the asker has confirmed (draft-ietf-mls-partial).  No proof shows whether a Commit counts;
that is the word of a member, signed (:mod:`slixmpp_mls.policy.without_tree`).
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Annotated, Any

from ...errors import InvalidError, MalformedError
from ...mls.crypto.cipher_suite import CipherSuite, Random, SignaturePrivateKey
from ...mls.group.group_state import MemberState
from ...mls.structures.group_context import GroupContext
from ...mls.structures.partial import MembershipProof
from ...mls.tls import AtMost, Struct, opaque, struct, uint8, uint32, uint64
from ...stanza import elements

__all__ = [
    "MAX_ANNOTATIONS", "MAX_ASKED", "MAX_PROOFS", "MAX_RECEIVERS", "MAX_REQUEST", "AnnotationKey", "AnnotationRequest",
    "Annotations", "CommitVerdict", "ReceiverAnnotation", "open_annotations", "open_request", "seal_annotations",
    "seal_request", "sign_verdict", "verify_request", "verify_verdict",
]  # fmt: skip

MAX_REQUEST = 16_384
"""Octets of the text of a request, before base64."""
MAX_ANNOTATIONS = 131_072
"""Octets of the text of an answer, before base64."""
MAX_ASKED = 16
"""Leaves that one request asks for."""
MAX_PROOFS = 48
"""Proofs of one tree in an answer."""
MAX_RECEIVERS = 64
"""Receivers of a Commit in an answer."""
_EXPORTED = "MLS-XMPP 1.0 annotations"
_REQUEST = "MLS-XMPP 1.0 annotation request"
_VERDICT = "MLS-XMPP 1.0 commit verdict"
_RULES = "urn:xmpp:mls:0 staying partial"


@struct
class AnnotationRequest(Struct):
    """A member's request.

    :ivar asker: its leaf index
    :ivar time: seconds since the Unix epoch by its clock, later than in any request of the client before
    :ivar commit: SHA-256 of the Commit's MLSMessage; empty if none is asked about
    :ivar members: leaf indices to be proved
    :ivar tree: 1 to ask where the ratchet tree is, else 0
    :ivar signature: ``SignWithLabel`` with its leaf's key, over an `AnnotationRequestTBS`
    """

    asker: uint32
    time: uint64
    commit: opaque
    members: Annotated[tuple[uint32, ...], AtMost(MAX_ASKED)]
    tree: uint8
    signature: opaque = b""


@struct
class _AnnotationRequestTBS(Struct):
    group_context: GroupContext
    asker: uint32
    time: uint64
    commit: opaque
    members: tuple[uint32, ...]
    tree: uint8


@struct
class CommitVerdict(Struct):
    """A member's word on one Commit of the epoch.

    :ivar commit: SHA-256 of its MLSMessage
    :ivar counts: 1 if it has ended the epoch, 0 if it is void
    :ivar tree_hash_after: of the tree after it; empty if it is void
    :ivar member: leaf index of the member whose word it is
    :ivar signature: ``SignWithLabel`` with its leaf's key, over a `CommitVerdictTBS`
    """

    commit: opaque
    counts: uint8
    tree_hash_after: opaque
    member: uint32
    signature: opaque


@struct
class _CommitVerdictTBS(Struct):
    group_context: GroupContext
    commit: opaque
    counts: uint8
    tree_hash_after: opaque
    member: uint32


@struct
class ReceiverAnnotation(Struct):
    """The part of an AnnotatedCommit that is for one receiver.

    :ivar resolution_index: which ciphertext of the path is for it; None if there is no path
    :ivar proof: its own, in the tree after the Commit
    """

    resolution_index: uint32 | None
    proof: MembershipProof


@struct
class Annotations(Struct):
    """An answer, which may be one to several members.

    :ivar proofs: of leaves in the epoch's tree: those asked for, the verdict's member, and for a Commit that counts the
        committer, who has proposed something, and each leaf that is removed or replaced
    :ivar verdict: on the Commit that was asked about
    :ivar committer: its proof in the tree after the Commit, if that counts
    :ivar receivers: who follow the Commit by this
    :ivar tree: a BlobReference of the epoch's tree; empty if nobody has asked for it
    """

    proofs: Annotated[tuple[MembershipProof, ...], AtMost(MAX_PROOFS)]
    verdict: CommitVerdict | None
    committer: MembershipProof | None
    receivers: Annotated[tuple[ReceiverAnnotation, ...], AtMost(MAX_RECEIVERS)]
    tree: opaque = b""


@struct
class _SealedAnnotations(Struct):
    """The text of both elements.

    :ivar salt: KDF.Nh random octets, from which the AEAD's key and nonce are derived
    """

    salt: opaque
    ciphertext: opaque


@struct
class _SealedAAD(Struct):
    element: opaque
    group_id: opaque
    epoch: uint64


class AnnotationKey:
    """What of an epoch encrypts requests and answers about it.  It outlives the epoch where annotations are made.

    :ivar context: the epoch's GroupContext
    """

    __slots__ = ("_secret", "context", "suite")

    def __init__(self, group: MemberState[Any]) -> None:
        self.suite: CipherSuite = group.suite
        self.context = group.context
        self._secret = group.export(_EXPORTED, b"", group.suite.hash_length)

    def __repr__(self) -> str:
        return f"<AnnotationKey of epoch {self.context.epoch}>"

    def seal(self, kind: type[elements.AnnotationElement], octets: bytes, random: Random) -> bytes:
        """The text of an element."""
        salt = random(self.suite.hash_length)
        key, nonce = self._derive(salt)
        return _SealedAnnotations(salt, self.suite.aead_seal(key, nonce, self._aad(kind), octets)).encode()

    def open(self, element: elements.AnnotationElement) -> bytes:
        """
        :raises MalformedError: it cannot be read
        :raises InvalidError: it does not decrypt
        """
        sealed = _SealedAnnotations.decode(element.data)
        if len(sealed.salt) != self.suite.hash_length:
            raise MalformedError("annotations with a salt of another length than the suite's")
        key, nonce = self._derive(sealed.salt)
        return self.suite.aead_open(key, nonce, self._aad(type(element)), sealed.ciphertext)

    def _derive(self, salt: bytes) -> tuple[bytes, bytes]:
        suite = self.suite
        return (
            suite.expand_with_label(self._secret, "key", salt, suite.aead_key_length),
            suite.expand_with_label(self._secret, "nonce", salt, suite.nonce_length),
        )

    def _aad(self, kind: type[elements.AnnotationElement]) -> bytes:
        return _SealedAAD(kind.NAME.encode(), self.context.group_id, self.context.epoch).encode()


def seal_request(
    key: AnnotationKey, signature_key: SignaturePrivateKey, request: AnnotationRequest, random: Random = os.urandom
) -> elements.AnnotationRequest:
    """Sign and encrypt a request, whose signature is still empty."""
    tbs = _request_tbs(key.context, request)
    signed = replace(request, signature=key.suite.sign_with_label(signature_key, _REQUEST, tbs))
    data = key.seal(elements.AnnotationRequest, signed.encode(), random)
    return elements.AnnotationRequest(key.context.group_id, key.context.epoch, data)


def open_request(key: AnnotationKey, element: elements.AnnotationRequest) -> AnnotationRequest:
    """A request, decrypted; :func:`verify_request` shows who has sent it.

    :raises MalformedError: it cannot be read
    :raises InvalidError: it does not decrypt
    """
    if len(element.data) > MAX_REQUEST:
        raise MalformedError(f"a request for annotations of over {MAX_REQUEST} octets")
    request = AnnotationRequest.decode(key.open(element))
    if request.tree > 1 or len(request.commit) not in (0, 32):
        raise MalformedError("a request for annotations with a value that is not defined")
    return request


def verify_request(key: AnnotationKey, public: bytes, request: AnnotationRequest) -> None:
    """
    :param public: the signature key of the asker's leaf
    :raises InvalidError: it has not signed the request
    """
    key.suite.verify_with_label(public, _REQUEST, _request_tbs(key.context, request), request.signature)


def _request_tbs(context: GroupContext, request: AnnotationRequest) -> bytes:
    return _AnnotationRequestTBS(
        context, request.asker, request.time, request.commit, request.members, request.tree
    ).encode()


def seal_annotations(key: AnnotationKey, annotations: Annotations, random: Random = os.urandom) -> elements.Annotations:
    """Encrypt an answer."""
    data = key.seal(elements.Annotations, annotations.encode(), random)
    return elements.Annotations(key.context.group_id, key.context.epoch, data)


def open_annotations(key: AnnotationKey, element: elements.Annotations) -> Annotations:
    """An answer, decrypted; nothing in it has been verified.

    :raises MalformedError: it cannot be read
    :raises InvalidError: it does not decrypt
    """
    if len(element.data) > MAX_ANNOTATIONS:
        raise MalformedError(f"annotations of over {MAX_ANNOTATIONS} octets")
    return Annotations.decode(key.open(element))


def sign_verdict(
    key: AnnotationKey, signature_key: SignaturePrivateKey, member: int, commit: bytes, tree_hash_after: bytes | None
) -> CommitVerdict:
    """Our word on a Commit.

    :param member: our leaf in the epoch
    :param commit: SHA-256 of its MLSMessage
    :param tree_hash_after: of the tree after it; None if it is void
    """
    counts, after = int(tree_hash_after is not None), tree_hash_after or b""
    tbs = _CommitVerdictTBS(key.context, commit, counts, after, member).encode()
    signature = key.suite.sign_with_label(signature_key, _VERDICT, tbs)
    return CommitVerdict(commit, counts, after, member, signature)


def verify_verdict(key: AnnotationKey, public: bytes, verdict: CommitVerdict) -> None:
    """
    :param public: the signature key of the member's leaf
    :raises InvalidError: it has not signed the verdict, or that says neither
    """
    if verdict.counts > 1:
        raise InvalidError("a verdict that is not defined", _RULES)
    tbs = _CommitVerdictTBS(
        key.context, verdict.commit, verdict.counts, verdict.tree_hash_after, verdict.member
    ).encode()
    key.suite.verify_with_label(public, _VERDICT, tbs, verdict.signature)
