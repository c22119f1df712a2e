"""Joining a group by one's own Commit (RFC 9420 12.4.3.2), and asking from outside (12.1.8)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from immutables import Map

from ...errors import InvalidError
from ..crypto.cipher_suite import CipherSuite, Random, SignaturePrivateKey
from ..parameters import Parameters
from ..registry import WireFormat
from ..schedule.key_schedule import EpochSecrets, external_init
from ..schedule.message_protection import protect_public, sign
from ..schedule.psk_secret import psk_secret
from ..schedule.secret_tree import SecretTree
from ..schedule.transcript import confirmation_tag
from ..structures.commit import Commit, ProposalRef
from ..structures.extensions import ExternalPub
from ..structures.framing import (
    AnySender,
    AuthenticatedContent,
    FramedContent,
    MemberSender,
    MLSMessage,
    NewMemberCommitSender,
    PublicMessage,
)
from ..structures.leaf_node import LeafNode, UpdateSource
from ..structures.proposals import AnyProposal, ExternalInit, PreSharedKey, Remove, SelfRemove
from ..structures.psk import PreSharedKeyID
from ..structures.welcome import GroupInfo
from ..tree.leaf_creation import OwnLeaf
from ..tree.leaf_validation import LeafRules, check_leaf, check_members
from ..tree.ratchet_tree import RatchetTree
from ..tree.tree_math import LeafIndex
from ..tree.treekem import TreeKEMPrivate, renew_path
from .commit_creation import CommitBundle, create_group_info
from .group_state import GroupState, PSKLookup, PublicGroup, no_psks
from .joining import public_of
from .message_processing import open_public, take_proposal
from .proposal_list import SentProposal, apply, check_list
from .staging import StagedCommit, effects_of, new_context, next_epoch, path_change, provisional_context, public_group

__all__ = ["external_commit", "external_proposal"]


def external_commit(
    group_info: GroupInfo,
    own: OwnLeaf,
    rules: LeafRules,
    *,
    make: type[GroupState],
    tree: bytes | RatchetTree | None = None,
    replaces: LeafIndex | None = None,
    leaving: Sequence[PublicMessage] = (),
    psk_names: Sequence[PreSharedKeyID] = (),
    psks: PSKLookup = no_psks,
    parameters: Parameters | None = None,
    with_group_info: bool = False,
    authenticated_data: bytes = b"",
    random: Random = os.urandom,
) -> CommitBundle:
    """RFC 9420 12.4.3.2: a Commit by which we join ("join"), or come back ("resync").

    :param group_info: of the group's present epoch, with `external_pub`
    :param own: what our leaf is made of
    :param replaces: our old leaf, which goes with the same Commit
    :param leaving: SelfRemove proposals of this epoch (draft-ietf-mls-extensions), to be committed
    :param psk_names: PSKs to inject
    :raises InvalidError: the GroupInfo is not acceptable, or allows no external joins
    """
    public = public_of(group_info, tree=tree, lifetime_limit=rules.lifetime_limit, remembered=rules.remembered)
    suite, context = public.suite, public.context
    key = ExternalPub.found_in(group_info.extensions)
    if key is None:
        raise InvalidError("a GroupInfo without external_pub", "RFC 9420 12.4.3.2")
    kem_output, init_secret = external_init(suite, key.external_pub)

    me = NewMemberCommitSender()
    by_value: list[AnyProposal] = [ExternalInit(kem_output)]
    if replaces is not None:
        by_value.append(Remove(replaces))
    by_value += [PreSharedKey(name) for name in psk_names]
    by_reference = [_self_remove(public, message, rules) for message in leaving]
    covered = (*by_reference, *(SentProposal(proposal, me) for proposal in by_value))
    check_list(covered, me, context)
    applied = apply(covered, public.tree, context, rules)

    roomy, index = applied.tree.with_room()  # the leftmost free leaf
    renewed = renew_path(
        roomy, index, _template(own), own.signature_key, context.group_id, complete=own.complete, random=random
    )
    check_leaf(renewed.leaf, applied.requirements)
    check_members(renewed.tree, applied.requirements)
    provisional = provisional_context(context, renewed.tree.tree_hash(), applied.extensions)
    path = renewed.encrypt(provisional.encode())
    entries = (*(ProposalRef(sent.reference or b"") for sent in by_reference), *by_value)
    framed = FramedContent(context.group_id, context.epoch, me, authenticated_data, Commit(entries, path))
    old_context = context.encode()
    wire_format = WireFormat.PUBLIC_MESSAGE
    signature = sign(suite, own.signature_key, wire_format, framed, old_context)
    content = AuthenticatedContent(wire_format, framed, signature)

    before = _outside(public, own.signature_key, parameters or Parameters(), make)
    new = next_epoch(
        suite,
        new_context(suite, public.interim_transcript_hash, provisional, content),
        init_secret,
        renewed.commit_secret,
        psk_secret(suite, [(name, _psk(name, psks)) for name in applied.psks]),
    )
    tag = confirmation_tag(suite, new.epoch.secrets.confirmation_key, new.context.confirmed_transcript_hash)
    message = protect_public(suite, replace(content, confirmation_tag=tag), b"", old_context)
    begun = public_group(new.context, renewed.tree, tag)
    state = before.entered(begun, new.epoch, renewed.private, own.signature_key, None)
    state = replace(state, resumption_psks=before.resumption_psks)  # we have none of the epoch before
    change = path_change(public.tree, renewed.tree, me, index)
    effects = effects_of(applied, me, index, change)
    staged = StagedCommit(effects, context.group_id, context.epoch, public.confirmation_tag, True, state)
    info = None
    if with_group_info:
        info = MLSMessage.wrap(create_group_info(state, tree=True, external=True, random=random))
    return CommitBundle(MLSMessage.wrap(message), None, info, before, staged)


def _template(own: OwnLeaf) -> LeafNode:
    """Our leaf, but for the key and the source that the path gives it."""
    return LeafNode(
        encryption_key=b"",
        signature_key=own.signature_key.public,
        credential=own.credential,
        capabilities=own.capabilities,
        source=UpdateSource(),
        extensions=own.leaf_extensions,
    )


def _outside(
    public: PublicGroup, key: SignaturePrivateKey, parameters: Parameters, make: type[GroupState]
) -> GroupState:
    """A joiner's view of the epoch before its own: nothing secret."""
    nothing = EpochSecrets(*[b""] * 8)
    private = TreeKEMPrivate(LeafIndex(0), Map())
    tree = SecretTree.create(public.suite, b"", 1)
    return make(public, nothing, tree, private, key, parameters)


def _psk(name: PreSharedKeyID, psks: PSKLookup) -> bytes:
    # Not from the group, of which we have no secret: our own past in it is for the application to know.
    value = psks(name.psk)
    if value is None:
        raise InvalidError("a PSK that we do not have", "RFC 9420 12.4.1")
    return value


def _self_remove(public: PublicGroup, message: PublicMessage, rules: LeafRules) -> SentProposal:
    """A SelfRemove of this epoch; an outsider can check its signature, not its membership tag.

    :raises InvalidError: it is none, or of another epoch, or not by the member that it names
    """
    framed = message.content
    if not isinstance(framed.content, SelfRemove) or not isinstance(framed.sender, MemberSender):
        raise InvalidError("not a member's SelfRemove", "draft-ietf-mls-extensions SelfRemove")
    return take_proposal(public, open_public(public, message, None), rules)


def external_proposal(
    suite: CipherSuite,
    group_id: bytes,
    epoch: int,
    sender: AnySender,
    proposal: AnyProposal,
    key: SignaturePrivateKey,
    *,
    authenticated_data: bytes = b"",
) -> bytes:
    """RFC 9420 12.1.8: a proposal by somebody who is not a member, as MLSMessage.

    Nothing more need be known of the group than its id, epoch and cipher suite.

    :param sender: ExternalSenderIndex or NewMemberProposalSender
    :param key: of the external sender, or of the KeyPackage's leaf
    """
    framed = FramedContent(group_id, epoch, sender, authenticated_data, proposal)
    signature = sign(suite, key, WireFormat.PUBLIC_MESSAGE, framed, b"")
    content = AuthenticatedContent(WireFormat.PUBLIC_MESSAGE, framed, signature)
    return MLSMessage.wrap(protect_public(suite, content, b"", b""))
