"""Receiving: from an MLSMessage to what it would change (RFC 9420 6, 12.4.2).

::

    MLSMessage ─ group, epoch ─ unprotect ─ verify ─┬─ ReceivedMessage   application data
                                                    ├─ ReceivedProposal  to be kept until a Commit refers to it
                                                    └─ StagedCommit      the next epoch

None of them has changed the group; :meth:`Group.apply <slixmpp_mls.mls.group.Group.apply>` does.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InvalidError, NotForUs, UnknownGroup, WrongEpoch
from .cipher_suite import SignaturePrivateKey
from .commit import Commit
from .effects import ChangeKind
from .framing import (
    AnySender,
    ApplicationData,
    AuthenticatedContent,
    ContentType,
    MemberSender,
    MLSMessage,
    NewMemberCommitSender,
    PrivateMessage,
    PublicMessage,
)
from .group_state import GroupState, OwnUpdate, PSKLookup, no_psks
from .key_schedule import open_external_init
from .leaf_node import LeafNode
from .leaf_validation import LeafRules, check_members
from .message_protection import open_sender_data, unprotect_private, unprotect_public
from .proposal_list import SentProposal, apply, check_list, check_proposer
from .proposals import AnyProposal, Remove, SelfRemove, Update
from .registry import ProtocolVersion
from .secret_tree import RatchetLimits, SecretTree
from .staging import (
    StagedCommit,
    check_path_present,
    effects_of,
    next_epoch,
    path_change,
    provisional_context,
    psk_values,
    public_group,
    resolve,
)
from .transcript import verify_confirmation_tag
from .tree_math import LeafIndex
from .treekem import TreeKEMPrivate, decrypt_path, merge_path

__all__ = ["Processed", "ReceivedMessage", "ReceivedProposal", "process"]


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """Application data, its sender authenticated.

    :ivar sender: the sender's leaf index
    :ivar leaf: the sender's leaf as it was in the message's epoch
    :ivar data: the plaintext
    """

    epoch: int
    sender: LeafIndex
    leaf: LeafNode
    authenticated_data: bytes
    data: bytes
    base: SecretTree
    secret_tree: SecretTree

    def __repr__(self) -> str:
        return f"<ReceivedMessage from leaf {self.sender} in epoch {self.epoch}>"


@dataclass(frozen=True, slots=True)
class ReceivedProposal:
    """A proposal that a Commit may now refer to."""

    epoch: int
    sent: SentProposal
    base: SecretTree
    secret_tree: SecretTree | None

    @property
    def proposal(self) -> AnyProposal:
        return self.sent.proposal

    @property
    def sender(self) -> AnySender:
        return self.sent.sender


Processed = ReceivedMessage | ReceivedProposal | StagedCommit


def process(
    group: GroupState, message: MLSMessage, rules: LeafRules, *, psks: PSKLookup = no_psks
) -> Processed:
    """What a message means for a group.

    :raises UnknownGroup: it is for another group
    :raises WrongEpoch: it is for an epoch that we are not in and do not remember
    :raises NotForUs: it is our own, and encrypted: only the others can read it
    :raises Replayed: its key has been used
    :raises InvalidError: it is not valid
    """
    if message.version != ProtocolVersion.MLS10:
        raise InvalidError(f"protocol version {message.version}", "RFC 9420 6")
    body = message.body
    if isinstance(body, PrivateMessage):
        _check_group(group, body.group_id)
        if body.epoch != group.epoch:
            return _late_message(group, body)
        content, leaf, secret_tree = _open_private(group, body)
        return _received(group, content, leaf, secret_tree, rules, psks)
    if isinstance(body, PublicMessage):
        _check_group(group, body.content.group_id)
        if body.content.epoch != group.epoch:  # RFC 9420 12.4.2
            raise WrongEpoch(f"epoch {body.content.epoch}, not {group.epoch}", "RFC 9420 12.4.2")
        context = group.context.encode()
        unverified = unprotect_public(group.suite, body, group.secrets.membership_key, context)
        key = group.public.signature_key_of(unverified.content)
        content = unverified.verify(group.suite, key, context)
        return _received(group, content, None, None, rules, psks)
    raise InvalidError(f"{message.wire_format.name} is no message inside a group", "RFC 9420 6")


def _check_group(group: GroupState, group_id: bytes) -> None:
    if group_id != group.group_id:
        raise UnknownGroup("a message for another group", "RFC 9420 6.1")


def _limits(group: GroupState) -> RatchetLimits:
    return RatchetLimits(group.parameters.forward_limit, group.parameters.skipped_limit)


def _open_private(
    group: GroupState, message: PrivateMessage
) -> tuple[AuthenticatedContent, LeafNode, SecretTree]:
    sender = open_sender_data(group.suite, message, group.secrets.sender_data_secret)
    if sender.leaf_index == group.own_index:
        raise NotForUs("our own message", "RFC 9420 9.2")  # its key was deleted when it was sent
    leaf = group.tree.member(LeafIndex(sender.leaf_index))  # RFC 9420 6.3.2: refuses a blank leaf
    unverified, tree = unprotect_private(group.suite, message, sender, group.secret_tree, _limits(group))
    return unverified.verify(group.suite, leaf.signature_key, group.context.encode()), leaf, tree


def _late_message(group: GroupState, message: PrivateMessage) -> ReceivedMessage:
    """Application data of an epoch that has ended (RFC 9420 15.3)."""
    past = next((past for past in group.past if past.epoch == message.epoch), None)
    if past is None or message.content_type is not ContentType.APPLICATION:
        raise WrongEpoch(f"epoch {message.epoch}, not {group.epoch}", "RFC 9420 6, 15.3")
    sender = open_sender_data(group.suite, message, past.sender_data_secret)
    if sender.leaf_index == group.own_index:
        raise NotForUs("our own message", "RFC 9420 9.2")
    leaf = group.past_leaf(past.epoch, LeafIndex(sender.leaf_index))
    unverified, tree = unprotect_private(group.suite, message, sender, past.secret_tree, _limits(group))
    content = unverified.verify(group.suite, leaf.signature_key, past.context)
    return _application(content, leaf, past.secret_tree, tree)


def _application(content: AuthenticatedContent, leaf: LeafNode, base: SecretTree, tree: SecretTree) -> ReceivedMessage:
    framed = content.content
    assert isinstance(framed.sender, MemberSender)
    assert isinstance(framed.content, ApplicationData)
    sender = LeafIndex(framed.sender.leaf_index)
    return ReceivedMessage(
        framed.epoch, sender, leaf, framed.authenticated_data, framed.content.data, base, tree
    )


def _received(
    group: GroupState,
    content: AuthenticatedContent,
    leaf: LeafNode | None,
    tree: SecretTree | None,
    rules: LeafRules,
    psks: PSKLookup,
) -> Processed:
    framed = content.content
    if isinstance(framed.content, ApplicationData):
        assert leaf is not None
        assert tree is not None
        return _application(content, leaf, group.secret_tree, tree)
    if isinstance(framed.content, Commit):
        return stage_commit(group, content, rules, psks)
    return _proposal(group, content, tree, rules)


def _proposal(
    group: GroupState, content: AuthenticatedContent, tree: SecretTree | None, rules: LeafRules
) -> ReceivedProposal:
    """RFC 9420 12.1: kept, to be found again by its hash.

    Whether it is valid in a list is decided by the Commit; what is wrong with it in any
    list is refused at once, so that nobody commits to it.
    """
    framed = content.content
    proposal = framed.content
    assert not isinstance(proposal, Commit | ApplicationData)
    check_proposer(proposal, framed.sender)
    if isinstance(proposal, SelfRemove) and tree is not None:
        raise InvalidError("SelfRemove must be a PublicMessage", "draft-ietf-mls-extensions SelfRemove")
    sent = SentProposal(proposal, framed.sender, group.suite.proposal_ref(content.encode()), content)
    if not isinstance(proposal, Remove) or framed.sender != MemberSender(proposal.removed):
        # Alone and committed by nobody: the rules of 12.1 for the single proposal.
        apply((sent,), group.tree, group.context, rules)
    return ReceivedProposal(framed.epoch, sent, group.secret_tree, tree)


def stage_commit(
    group: GroupState, content: AuthenticatedContent, rules: LeafRules, psks: PSKLookup
) -> StagedCommit:
    """RFC 9420 12.4.2: check a Commit and compute the epoch that it begins."""
    framed = content.content
    commit = framed.content
    committer = framed.sender
    assert isinstance(commit, Commit)
    suite = group.suite
    group.require_open()
    if committer == MemberSender(group.own_index):
        raise NotForUs("our own Commit: apply the one that was staged when it was made", "RFC 9420 12.4.2")
    external = isinstance(committer, NewMemberCommitSender)
    proposals = resolve(commit, committer, group)
    check_list(proposals, committer, group.context)
    check_path_present(commit, proposals)
    applied = apply(proposals, group.tree, group.context, rules)

    tree = applied.tree
    if external:
        tree, index = tree.with_room()  # RFC 9420 12.4.3.2: the leftmost free leaf
    else:
        assert isinstance(committer, MemberSender)
        index = LeafIndex(committer.leaf_index)
    added = frozenset(place for place, _ in applied.added)
    if commit.path is not None:
        rules.check_path_leaf(group.group_id, index, commit.path.leaf_node, applied.requirements)
        tree = merge_path(tree, index, commit.path, added)
    provisional = provisional_context(group.context, applied, tree)
    check_members(tree, applied.requirements)
    change = None if commit.path is None else path_change(group.tree, tree, committer, index)
    effects = effects_of(applied, committer, index, change)

    if any(each.kind is ChangeKind.REMOVED and each.index == group.own_index for each in applied.changes):
        return StagedCommit(effects, group.group_id, group.epoch, False, None)

    private, signature_key = _with_own_update(group, proposals)
    commit_secret = suite.zero
    if commit.path is not None:
        private, commit_secret = decrypt_path(private, tree, index, commit.path, provisional.encode(), added)
    else:
        private = private.kept_in(tree)
    init_secret = group.secrets.init_secret
    if applied.kem_output is not None:
        init_secret = open_external_init(suite, group.secrets, applied.kem_output)
    psk_secret = psk_values(group, applied.psks, psks)
    interim = group.public.interim_transcript_hash
    new = next_epoch(suite, interim, provisional, content, init_secret, commit_secret, psk_secret)
    tag = content.confirmation_tag
    assert tag is not None  # the structure's own rule for Commits
    confirmed = new.context.confirmed_transcript_hash
    verify_confirmation_tag(suite, new.epoch.secrets.confirmation_key, confirmed, tag)

    state = group.entered(public_group(new, tree, tag), new.epoch, private, signature_key, applied.reinit)
    return StagedCommit(effects, group.group_id, group.epoch, False, state)


def _with_own_update(
    group: GroupState, proposals: tuple[SentProposal, ...]
) -> tuple[TreeKEMPrivate, SignaturePrivateKey]:
    """Our keys, with those of our own Update if the Commit covers it."""
    for sent in proposals:
        if isinstance(sent.proposal, Update) and sent.sender == MemberSender(group.own_index):
            update: OwnUpdate | None = group.updates.get(sent.reference or b"")
            if update is None:
                raise InvalidError("an Update of ours whose keys we do not have", "RFC 9420 12.1.2")
            return group.private.with_leaf_key(update.leaf_key), update.signature_key
    return group.private, group.signature_key
