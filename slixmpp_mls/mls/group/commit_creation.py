"""Making a Commit, and the Welcome that goes with it (RFC 9420 12.4.1).

A committer does not move on by committing: it gets a :class:`CommitBundle` with the messages,
the state in which it waits (:attr:`CommitBundle.sent`, whose ratchet has moved on), and the
staged commit that it applies if and when the group's order says that the Commit has won.

It is made in two steps.  :func:`draft_commit` does all that depends on the epoch alone: proposals, path, signature,
the next state.  :func:`finish_commit` uses up a key to encrypt it, and invites those who are added.  Between the two
the new ratchet tree is known and nothing has happened: there is time to bring the tree to a place of its own, with
messages coming and going, and to think better of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from ...errors import InvalidError, UsageError
from ..crypto.cipher_suite import CipherSuite, Random, SignaturePrivateKey
from ..registry import ExtensionType, WireFormat
from ..schedule.key_schedule import welcome_key
from ..schedule.message_protection import Padding, pad_in_steps, protect_private, protect_public, sign
from ..schedule.transcript import confirmation_tag
from ..structures.commit import Commit, ProposalRef
from ..structures.extensions import Extension, ExternalPub
from ..structures.framing import AuthenticatedContent, FramedContent, MemberSender, MLSMessage
from ..structures.leaf_node import LeafNode
from ..structures.proposals import AnyProposal
from ..structures.psk import PreSharedKeyID, ResumptionPSKUsage
from ..structures.welcome import EncryptedGroupSecrets, GroupInfo, GroupSecrets, PathSecret, Welcome, group_info_tbs
from ..tree.leaf_creation import Completion, OwnLeaf, as_it_is, grease
from ..tree.leaf_validation import LeafRules, check_leaf, check_members
from ..tree.ratchet_tree import RatchetTree
from ..tree.tree_math import LeafIndex
from ..tree.treekem import RenewedPath, renew_path
from .group_state import GroupState, PSKLookup, no_psks
from .proposal_list import Applied, SentProposal, apply, check_list, path_required
from .proposal_selection import choose_valid
from .staging import (
    NextEpoch,
    StagedCommit,
    effects_of,
    new_context,
    next_epoch,
    path_change,
    provisional_context,
    psk_values,
    public_group,
)

__all__ = [
    "CommitArguments", "CommitBundle", "CommitDraft", "CommitOptions", "create_group_info", "draft_commit",
    "finish_commit", "sign_group_info",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class CommitOptions:
    """How a Commit is made.

    :ivar path: force the UpdatePath (True), or leave it out where it may be (False); None: as the
        Commit's purpose asks, that is always but for Commits of Adds only
    :ivar public: send it as a PublicMessage
    :ivar tree_in_welcome: put the ratchet tree into the Welcome
    :ivar group_info: make a GroupInfo for external joins, too
    :ivar tree_in_group_info: put the ratchet tree into that
    :ivar leaf: what our new leaf is made of, if more than its encryption key changes
    :ivar complete: as :attr:`.OwnLeaf.complete`, for a leaf that is made of the same as before
    :ivar padding: of the encrypted Commit
    :ivar psk_usage: set by :mod:`.resumption` only
    """

    path: bool | None = None
    public: bool = False
    tree_in_welcome: bool = True
    group_info: bool = False
    tree_in_group_info: bool = True
    leaf: OwnLeaf | None = None
    complete: Completion = as_it_is
    authenticated_data: bytes = b""
    padding: Padding = pad_in_steps
    psk_usage: ResumptionPSKUsage | None = None


@dataclass(frozen=True, slots=True, repr=False)
class CommitBundle:
    """A Commit, ready to be sent.

    :ivar commit: MLSMessage
    :ivar welcome: MLSMessage for all new members, None if there are none
    :ivar group_info: MLSMessage, None if it was not asked for
    :ivar sent: the present epoch's state, to be stored before the Commit is sent
    :ivar staged: what to apply once the Commit has won
    """

    commit: bytes
    welcome: bytes | None
    group_info: bytes | None
    sent: GroupState
    staged: StagedCommit

    def __repr__(self) -> str:
        return f"<CommitBundle ends epoch {self.staged.base_epoch}>"


@dataclass(frozen=True, slots=True, repr=False)
class CommitDraft:
    """A Commit that has used up nothing: to be finished in the same epoch, or forgotten.

    :ivar staged: what it will change
    """

    options: CommitOptions
    content: AuthenticatedContent
    staged: StagedCommit
    next: NextEpoch
    psk_secret: bytes
    applied: Applied
    renewed: RenewedPath | None

    def __repr__(self) -> str:
        return f"<CommitDraft for epoch {self.staged.base_epoch}>"

    @property
    def invites(self) -> bool:
        """Whether there will be a Welcome."""
        return bool(self.applied.added)

    @property
    def path_length(self) -> int:
        """Octets of the UpdatePath, which does not grow with the proposals; 0 without one."""
        commit = self.content.content.content
        assert isinstance(commit, Commit)
        return 0 if commit.path is None else len(commit.path.encode())

    @property
    def tree(self) -> RatchetTree:
        """The ratchet tree of the new epoch."""
        assert self.staged.next is not None
        return self.staged.next.tree


class CommitArguments(TypedDict, total=False):
    """The arguments of :func:`draft_commit` that :meth:`.Group.commit` hands on."""

    by_reference: Sequence[bytes] | None
    options: CommitOptions | None
    psks: PSKLookup
    random: Random


def draft_commit(
    group: GroupState,
    rules: LeafRules,
    *,
    by_value: Sequence[AnyProposal] = (),
    by_reference: Sequence[bytes] | None = None,
    options: CommitOptions | None = None,
    psks: PSKLookup = no_psks,
    random: Random = os.urandom,
) -> CommitDraft:
    """RFC 9420 12.4.1, up to the confirmation tag.

    :param by_value: new proposals, in this order, after those by reference
    :param by_reference: ProposalRefs; None for those that :func:`.proposal_selection.choose_valid` picks
    :raises UsageError: the group is closed, or the options contradict each other
    :raises InvalidError: the proposals are not valid together
    """
    options = options or CommitOptions()
    group.require_open()
    suite = group.suite
    me = MemberSender(group.own_index)
    inline = tuple(SentProposal(proposal, me) for proposal in by_value)
    waiting = _waiting(group, inline, rules, psks) if by_reference is None else _referred(group, by_reference)
    covered = (*waiting, *inline)
    check_list(covered, me, group.context, psk_usage=options.psk_usage)
    try:
        applied = apply(covered, group.tree, group.context, rules)
    except InvalidError:
        if by_reference is not None or not waiting:
            raise
        # Nobody's proposal may keep us from committing.
        waiting, covered = (), inline
        applied = apply(covered, group.tree, group.context, rules)
    entries = (*(ProposalRef(sent.reference or b"") for sent in waiting), *by_value)

    renewed: RenewedPath | None = None
    tree = applied.tree
    if _wants_path(covered, options):
        renewed = _renew(group, applied, options, random)
        tree = renewed.tree
    provisional = provisional_context(group.context, tree.tree_hash(), applied.extensions)
    check_members(tree, applied.requirements)
    added = frozenset(index for index, _ in applied.added)
    path = renewed.encrypt(provisional.encode(), added) if renewed is not None else None
    if path is not None:
        check_leaf(path.leaf_node, applied.requirements)

    wire_format = WireFormat.PUBLIC_MESSAGE if options.public else WireFormat.PRIVATE_MESSAGE
    framed = FramedContent(group.group_id, group.epoch, me, options.authenticated_data, Commit(entries, path))
    old_context = group.context.encode()
    signature = sign(suite, group.signature_key, wire_format, framed, old_context)
    content = AuthenticatedContent(wire_format, framed, signature)
    psk_secret = psk_values(group, applied.psks, psks)
    new = next_epoch(
        suite,
        new_context(suite, group.public.interim_transcript_hash, provisional, content),
        group.secrets.init_secret,
        suite.zero if renewed is None else renewed.commit_secret,
        psk_secret,
    )
    tag = confirmation_tag(suite, new.epoch.secrets.confirmation_key, new.context.confirmed_transcript_hash)
    content = replace(content, confirmation_tag=tag)

    public = public_group(new.context, tree, tag)
    signature_key = group.signature_key if options.leaf is None or renewed is None else options.leaf.signature_key
    private_keys = group.private.kept_in(tree) if renewed is None else renewed.private
    next_state = group.entered(public, new.epoch, private_keys, signature_key, applied.reinit)
    change = None if renewed is None else path_change(group.tree, tree, me, group.own_index)
    effects = effects_of(applied, me, group.own_index, change)
    staged = StagedCommit(effects, group.group_id, group.epoch, group.public.confirmation_tag, True, next_state)
    return CommitDraft(options, content, staged, new, psk_secret, applied, renewed)


def finish_commit(
    draft: CommitDraft,
    group: GroupState,
    *,
    instead_of_tree: Extension | None = None,
    in_welcome: Sequence[Extension] = (),
    random: Random = os.urandom,
) -> CommitBundle:
    """RFC 9420 12.4.1, the rest: encryption, and the Welcome.

    :param group: the state as it is now, in the epoch of the draft
    :param instead_of_tree: a GroupInfo extension that says where the ratchet tree is, if it is not to be inside
    :param in_welcome: other extensions of the GroupInfo in the Welcome
    :raises UsageError: the group has left the draft's epoch
    """
    suite, options, staged = group.suite, draft.options, draft.staged
    base = (staged.group_id, staged.base_epoch, staged.base_tag)
    if base != (group.group_id, group.epoch, group.public.confirmation_tag):
        raise UsageError("the group has left the epoch of this draft")
    assert staged.next is not None
    # Messages of ended epochs may have been read since: their keys must not come back with the Commit (RFC 9420 9.2).
    next_state = replace(staged.next, past=group.past)
    sent = group
    if options.public:
        message = protect_public(suite, draft.content, group.secrets.membership_key, group.context.encode())
        commit = MLSMessage.wrap(message)
    else:
        private, secret_tree = protect_private(
            suite, draft.content, group.secret_tree, group.secrets.sender_data_secret, options.padding, random
        )
        commit = MLSMessage.wrap(private)
        sent = replace(group, secret_tree=secret_tree)

    def info(*, tree: bool, external: bool) -> GroupInfo:
        found = () if instead_of_tree is None else (instead_of_tree,)
        inside, others = tree and instead_of_tree is None, () if external else in_welcome
        extensions = (*found, *others)
        return create_group_info(next_state, tree=inside, external=external, extensions=extensions, random=random)

    welcome = group_info = None
    if draft.invites:
        welcome = MLSMessage.wrap(_welcome(suite, info(tree=options.tree_in_welcome, external=False), draft))
    if options.group_info:
        group_info = MLSMessage.wrap(info(tree=options.tree_in_group_info, external=True))
    return CommitBundle(commit, welcome, group_info, sent, replace(staged, next=next_state))


def _waiting(
    group: GroupState, inline: Sequence[SentProposal], rules: LeafRules, psks: PSKLookup
) -> tuple[SentProposal, ...]:
    """The proposals to commit to, unless the caller says which."""

    def available(name: PreSharedKeyID) -> bool:
        return group.find_psk(name.psk, psks) is not None

    me = MemberSender(group.own_index)
    return choose_valid(
        group.pending_proposals, me, group.tree, group.context, beside=inline, rules=rules, available=available
    )


def _referred(group: GroupState, references: Sequence[bytes]) -> tuple[SentProposal, ...]:
    unknown = [reference for reference in references if reference not in group.public.proposals]
    if unknown:
        raise UsageError(f"{len(unknown)} references to proposals that do not wait here")
    return tuple(group.public.proposals[reference] for reference in references)


def _wants_path(covered: Sequence[SentProposal], options: CommitOptions) -> bool:
    if path_required(covered):
        if options.path is False:
            raise UsageError("these proposals need a path")
        return True
    if options.path is False and options.leaf is not None:
        raise UsageError("a new leaf needs a path")
    if options.path is not None:
        return options.path
    return options.leaf is not None


def _renew(group: GroupState, applied: Applied, options: CommitOptions, random: Random) -> RenewedPath:
    template: LeafNode = applied.tree.member(group.own_index)
    key: SignaturePrivateKey = group.signature_key
    complete = options.complete
    if options.leaf is not None:
        own = options.leaf
        key, complete = own.signature_key, own.complete
        template = replace(
            template,
            signature_key=key.public,
            credential=own.credential,
            capabilities=own.capabilities,
            extensions=own.leaf_extensions,
        )
    return renew_path(applied.tree, group.own_index, template, key, group.group_id, complete=complete, random=random)


def _welcome(suite: CipherSuite, info: GroupInfo, draft: CommitDraft) -> Welcome:
    """One Welcome for all (RFC 9420 12.4.3.1)."""
    applied, renewed, joiner = draft.applied, draft.renewed, draft.next.joiner
    key = welcome_key(suite, joiner, draft.psk_secret)
    encrypted = suite.aead_seal(key.key, key.nonce, b"", info.encode())

    def secrets(index: LeafIndex) -> bytes:
        path = None if renewed is None else PathSecret(renewed.path_secret_for(index))
        return GroupSecrets(joiner, path, applied.psks).encode()

    recipients = [(package.key_package.init_key, secrets(index)) for index, package in applied.added]
    sealed = suite.encrypt_to_many("Welcome", encrypted, recipients)
    entries = [
        EncryptedGroupSecrets(package.reference, each) for (_, package), each in zip(applied.added, sealed, strict=True)
    ]
    return Welcome(suite.id, tuple(entries), encrypted)


def create_group_info(
    group: GroupState,
    *,
    tree: bool,
    external: bool,
    extensions: Sequence[Extension] = (),
    random: Random = os.urandom,
) -> GroupInfo:
    """RFC 9420 12.4.3: the present epoch, described and signed.

    :param tree: with the ratchet tree in it
    :param external: with the key for external joins in it (12.4.3.2)
    :param extensions: others
    """
    found = list(extensions)
    if tree:
        found.append(Extension(ExtensionType.RATCHET_TREE, group.tree.encode()))
    if external:
        found.append(ExternalPub(group.secrets.external_key_pair(group.suite).public).extension())
    found.append(Extension(grease(random), random(8)))  # RFC 9420 12.4.3, 13.5
    info = GroupInfo(group.context, tuple(found), group.public.confirmation_tag, group.own_index)
    return sign_group_info(group.suite, info, group.signature_key)


def sign_group_info(suite: CipherSuite, info: GroupInfo, key: SignaturePrivateKey) -> GroupInfo:
    """The GroupInfo with its signature."""
    return replace(info, signature=suite.sign_with_label(key, "GroupInfoTBS", group_info_tbs(info)))
