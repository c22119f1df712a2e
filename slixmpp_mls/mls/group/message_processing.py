"""Receiving: from an MLSMessage to what it would change (RFC 9420 6, 12.4.2).

::

    MLSMessage ─ group, epoch ─ unprotect ─ verify ─┬─ ReceivedMessage   application data
                                                    ├─ ReceivedProposal  to be kept until a Commit refers to it
                                                    └─ StagedCommit      the next epoch

None of them has changed the group; :meth:`Group.apply <slixmpp_mls.mls.group.group.Group.apply>` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ...errors import InvalidError, NotForUs, PeerError, Replayed, StateRolledBack, UnknownGroup, WrongEpoch
from ..crypto.cipher_suite import SignaturePrivateKey
from ..registry import ProtocolVersion, WireFormat
from ..schedule.key_schedule import open_external_init
from ..schedule.message_protection import (
    SenderData,
    content_mark,
    open_sender_data,
    ratchet_for,
    unprotect_private,
    unprotect_public,
)
from ..schedule.secret_tree import RatchetKind, SecretTree
from ..schedule.transcript import verify_confirmation_tag
from ..structures.commit import Commit
from ..structures.framing import (
    AnySender,
    ApplicationData,
    AuthenticatedContent,
    ContentType,
    MemberSender,
    MLSMessage,
    PrivateMessage,
    PublicMessage,
)
from ..structures.leaf_node import LeafNode
from ..structures.proposals import AnyProposal, SelfRemove, Update
from ..tree.known_tree import KnownTree
from ..tree.leaf_validation import LeafRules
from ..tree.tree_math import LeafIndex
from ..tree.treekem import TreeKEMPrivate, decrypt_path
from .commit_effects import ChangeKind, Effects
from .group_state import (
    GroupState,
    MemberState,
    OwnUpdate,
    PastEpoch,
    PSKLookup,
    PublicState,
    SpentKey,
    no_psks,
    past_leaf,
)
from .proposal_list import SentProposal, check_alone
from .staging import StagedCommit, new_context, next_epoch, psk_values, public_group, stage_public

__all__ = [
    "CommitJudge", "OpenedMessage", "Processed", "ReceivedMessage", "ReceivedProposal", "any_commit", "check_group",
    "check_open", "check_version", "ended_epoch", "open_private", "open_public", "process", "take_proposal",
    "with_own_update",
]  # fmt: skip

T = TypeVar("T", bound=KnownTree)


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """Application data, its sender authenticated.

    :ivar sender: the sender's leaf index
    :ivar leaf: the sender's leaf as it was in the message's epoch
    :ivar data: the plaintext
    :ivar missing: how many messages the sender has encrypted, after the latest one that has come and before this
        one, that have not come (RFC 9750 5.2: loss detection by generations)
    :ivar again: whether the same signed content has been read before, under another generation: its sender has said
        the same in the same words, or some member has encrypted it once more.  A caller that knows
        that senders do not repeat themselves does not apply it; then the key is left for a message that is genuine
    """

    epoch: int
    sender: LeafIndex
    leaf: LeafNode
    authenticated_data: bytes
    data: bytes
    missing: int
    base: SecretTree
    secret_tree: SecretTree
    again: bool = False

    def __repr__(self) -> str:
        return f"<ReceivedMessage from leaf {self.sender} in epoch {self.epoch}>"


@dataclass(frozen=True, slots=True)
class ReceivedProposal:
    """A proposal that a Commit may now refer to.

    :ivar again: as of :class:`ReceivedMessage`
    """

    epoch: int
    sent: SentProposal
    base: SecretTree
    secret_tree: SecretTree | None
    again: bool = False

    @property
    def proposal(self) -> AnyProposal:
        return self.sent.proposal

    @property
    def sender(self) -> AnySender:
        return self.sent.sender


Processed = ReceivedMessage | ReceivedProposal | StagedCommit

CommitJudge = Callable[[Effects], object]
"""Raises :class:`~slixmpp_mls.errors.PeerError` if the application does not accept a Commit with these effects."""


def any_commit(effects: Effects) -> None:
    """Accept every Commit."""


def process(
    group: GroupState,
    message: MLSMessage,
    rules: LeafRules,
    now: int,
    *,
    psks: PSKLookup = no_psks,
    judge: CommitJudge = any_commit,
) -> Processed:
    """The effect that a message has on a group.

    :param now: seconds since the Unix epoch: whether the keys of an ended epoch may still be used
    :param judge: asked about a Commit once it is known who signed it and what it does.  It is asked before any secret
        of the new epoch is needed, so that a member that lacks one refuses the Commit for the same reason as others
    :raises UnknownGroup: it is for another group
    :raises WrongEpoch: it is for an epoch that we are not in and do not remember
    :raises NotForUs: it is our own, and encrypted: only the others can read it
    :raises StateRolledBack: it is our own, and `group` is from a time before it was sent
    :raises Replayed: its key has been used; or it is our own content, which somebody else has encrypted once more
    :raises InvalidError: it is not valid
    """
    check_version(message)
    body = message.body
    if isinstance(body, PrivateMessage):
        check_group(group.public, body.group_id)
        if body.epoch != group.epoch:
            return _late_message(group, body, now)
        check_open(group)
        return _private(group, body, rules, psks, judge)
    if isinstance(body, PublicMessage):
        content = open_public(group.public, body, group.secrets.membership_key)
        check_open(group)
        return _received(group, content, None, None, rules, psks, judge)
    raise InvalidError(f"{message.wire_format.name} is no message inside a group", "RFC 9420 6")


def check_version(message: MLSMessage) -> None:
    """:raises InvalidError: it is of another version of the protocol"""
    if message.version != ProtocolVersion.MLS10:
        raise InvalidError(f"protocol version {message.version}", "RFC 9420 6")


def check_group(public: PublicState[T], group_id: bytes) -> None:
    if group_id != public.group_id:
        raise UnknownGroup("a message for another group", "RFC 9420 6.1")


def check_open(group: MemberState[T]) -> None:
    if group.closed is not None:
        raise InvalidError("a message in a group that has been reinitialized", "RFC 9420 12.4.2")


def open_public(public: PublicState[T], message: PublicMessage, membership_key: bytes | None) -> AuthenticatedContent:
    """RFC 9420 6.1, 6.2: the content of a PublicMessage of the present epoch.

    :param membership_key: None if we are no member, and so cannot check the membership tag
    """
    check_group(public, message.content.group_id)
    if message.content.epoch != public.epoch:  # RFC 9420 12.1, 12.4.2
        raise WrongEpoch(f"epoch {message.content.epoch}, not {public.epoch}", "RFC 9420 12.4.2")
    context = public.context.encode()
    unverified = unprotect_public(public.suite, message, membership_key, context)
    return unverified.verify(public.suite, public.signature_key_of(unverified.content), context)


def _private(
    group: GroupState, message: PrivateMessage, rules: LeafRules, psks: PSKLookup, judge: CommitJudge
) -> Processed:
    opened = open_private(group, message)
    if isinstance(opened.content.content.content, ApplicationData):
        return opened.as_application()
    return _received(group, opened.content, opened.left, opened.spent, rules, psks, judge)


def _late_message(group: GroupState, message: PrivateMessage, now: int) -> ReceivedMessage:
    past = ended_epoch(group, message, now)

    def leaf_of(index: LeafIndex) -> LeafNode:
        return past_leaf(group, past.epoch, index)

    return open_private(group, message, past, leaf_of).as_application()


@dataclass(frozen=True, slots=True, repr=False)
class OpenedMessage:
    """A PrivateMessage, decrypted, its sender authenticated.

    :ivar leaf: the sender's
    :ivar base: the secret tree that its key was taken from
    :ivar left: that tree without it
    """

    content: AuthenticatedContent
    leaf: LeafNode
    sender: SenderData
    base: SecretTree
    left: SecretTree

    @property
    def again(self) -> bool:
        """Whether the same signed content has come before, under another generation."""
        return self.base.has_carried(self.sender.leaf_index, content_mark(self.content.content))

    @property
    def spent(self) -> SpentKey:
        """The handshake key that it used."""
        return SpentKey(self.sender.leaf_index, self.sender.generation, self.base, self.left)

    def as_application(self) -> ReceivedMessage:
        """A message that has application data."""
        framed = self.content.content
        assert isinstance(framed.content, ApplicationData)
        sender = LeafIndex(self.sender.leaf_index)
        missing = max(0, self.sender.generation - self.base.due(sender, RatchetKind.APPLICATION))
        data = framed.content.data
        return ReceivedMessage(
            framed.epoch, sender, self.leaf, framed.authenticated_data, data, missing, self.base, self.left, self.again
        )


def ended_epoch(state: MemberState[T], message: PrivateMessage, now: int) -> PastEpoch:
    """RFC 9420 15.3: the ended epoch of a late application message.

    :raises WrongEpoch: it is not remembered, or the message is no application data
    """
    past = next((past for past in state.forget(state.past, now) if past.epoch == message.epoch), None)
    if past is None or message.content_type is not ContentType.APPLICATION:
        raise WrongEpoch(f"epoch {message.epoch}, not {state.epoch}", "RFC 9420 6, 15.3")
    return past


def open_private(
    state: MemberState[T],
    message: PrivateMessage,
    past: PastEpoch | None = None,
    leaf_of: Callable[[LeafIndex], LeafNode] | None = None,
) -> OpenedMessage:
    """RFC 9420 6.3: decrypt a message of the present epoch, or of an ended one.

    :param past: the ended epoch
    :param leaf_of: a member's leaf in the message's epoch; the present one by default
    :raises PeerError: it is refused
    """
    suite, tree = state.suite, state.secret_tree if past is None else past.secret_tree
    context = state.context.encode() if past is None else past.context
    secret = state.secrets.sender_data_secret if past is None else past.sender_data_secret
    sender = open_sender_data(suite, message, secret)
    # RFC 9420 6.3.2: the sender is a member; a blank leaf is none.
    leaf = (leaf_of or state.tree.member)(LeafIndex(sender.leaf_index))
    if sender.leaf_index == state.own_index:
        raise _own_message(state, message, sender, tree, leaf, context)
    unverified, left = unprotect_private(suite, message, sender, tree, state.limits)
    content = unverified.verify(suite, leaf.signature_key, context)
    return OpenedMessage(content, leaf, sender, tree, left)


def _own_message(
    state: MemberState[T], message: PrivateMessage, sender: SenderData, tree: SecretTree, leaf: LeafNode, context: bytes
) -> InvalidError:
    """RFC 9420 9.2: the key of a message that we have sent is gone; if it is still there, somebody else was us.

    Any member can write our leaf's number on a message.  So it must be signed by us.  Any member can also encrypt once
    more what we have signed, for the signature does not cover the generation (6.1).  So it must be a content that we
    have not signed, as far as the tree remembers.
    """
    try:
        unverified, _ = unprotect_private(state.suite, message, sender, tree, state.limits)
        content = unverified.verify(state.suite, leaf.signature_key, context).content
    except Replayed:
        return NotForUs("our own message", "RFC 9420 9.2")
    except PeerError:
        return InvalidError("a message that claims to be our own", "RFC 9420 6.3.2")
    own, kind = sender.leaf_index, ratchet_for(message.content_type)
    if tree.has_carried(own, content_mark(content)) or not tree.remembers_all(own, kind):
        return Replayed("our own message, encrypted once more by somebody else", "RFC 9420 6.1")
    return StateRolledBack("a message of ours that this state has not sent", "RFC 9420 9.2")


def _received(
    group: GroupState,
    content: AuthenticatedContent,
    tree: SecretTree | None,
    spent: SpentKey | None,
    rules: LeafRules,
    psks: PSKLookup,
    judge: CommitJudge,
) -> Processed:
    """A handshake message, once it is known who signed it."""
    if isinstance(content.content.content, Commit):
        return _stage_commit(group, content, spent, rules, psks, judge)
    sent = take_proposal(group.public, content, rules)
    group.with_proposal(sent)  # refused now, if there are too many
    again = spent is not None and group.secret_tree.has_carried(spent.leaf, content_mark(content.content))
    return ReceivedProposal(content.content.epoch, sent, group.secret_tree, tree, again)


def take_proposal(public: PublicState[T], content: AuthenticatedContent, rules: LeafRules) -> SentProposal:
    """RFC 9420 12.1: a proposal to be kept, and to be found again by its hash.

    Whether it is valid in a list is decided by the Commit; what is wrong with it in any
    list is refused at once, so that nobody commits to it.
    """
    framed = content.content
    proposal = framed.content
    assert not isinstance(proposal, Commit | ApplicationData)
    if isinstance(proposal, SelfRemove) and content.wire_format is not WireFormat.PUBLIC_MESSAGE:
        raise InvalidError("SelfRemove must be a PublicMessage", "draft-ietf-mls-extensions SelfRemove")
    sent = SentProposal(proposal, framed.sender, public.suite.proposal_ref(content.encode()), content)
    check_alone(sent, public.tree, public.context, rules)
    return sent


def _stage_commit(
    group: GroupState,
    content: AuthenticatedContent,
    spent: SpentKey | None,
    rules: LeafRules,
    psks: PSKLookup,
    judge: CommitJudge,
) -> StagedCommit:
    """RFC 9420 12.4.2: check a Commit and compute the epoch that it begins."""
    if content.content.sender == MemberSender(group.own_index):
        raise NotForUs("our own Commit: apply the one that was staged when it was made", "RFC 9420 12.4.2")
    suite, public = group.suite, group.public
    staged = stage_public(public, content, rules)
    judge(staged.effects)

    def result(state: GroupState | None) -> StagedCommit:
        return StagedCommit(staged.effects, group.group_id, group.epoch, public.confirmation_tag, False, state, spent)

    applied = staged.applied
    if any(each.kind is ChangeKind.REMOVED and each.index == group.own_index for each in applied.changes):
        return result(None)

    private, signature_key = with_own_update(group, staged.proposals)
    commit_secret = suite.zero
    if staged.path is not None:
        context = staged.provisional.encode()
        private, commit_secret = decrypt_path(private, staged.tree, staged.index, staged.path, context, staged.added)
    else:
        private = private.kept_in(staged.tree)
    init_secret = group.secrets.init_secret
    if applied.kem_output is not None:
        init_secret = open_external_init(suite, group.secrets, applied.kem_output)
    psk_secret = psk_values(group, applied.psks, psks)
    new = next_epoch(
        suite,
        new_context(suite, public.interim_transcript_hash, staged.provisional, content),
        init_secret,
        commit_secret,
        psk_secret,
    )
    tag = content.confirmation_tag
    assert tag is not None  # the structure's own rule for Commits
    confirmed = new.context.confirmed_transcript_hash
    verify_confirmation_tag(suite, new.epoch.secrets.confirmation_key, confirmed, tag)
    begun = public_group(new.context, staged.tree, tag)
    return result(group.entered(begun, new.epoch, private, signature_key, applied.reinit))


def with_own_update(
    group: MemberState[T], proposals: tuple[SentProposal, ...]
) -> tuple[TreeKEMPrivate, SignaturePrivateKey]:
    """Our keys, with those of our own Update if the Commit covers it."""
    for sent in proposals:
        if isinstance(sent.proposal, Update) and sent.sender == MemberSender(group.own_index):
            update: OwnUpdate | None = group.updates.get(sent.reference or b"")
            if update is None:
                raise InvalidError("an Update of ours whose keys we do not have", "RFC 9420 12.1.2")
            return group.private.with_leaf_key(update.leaf_key), update.signature_key
    return group.private, group.signature_key
