"""Sending: from a content to an MLSMessage (RFC 9420 6), alike for full and partial members."""

from __future__ import annotations

import os
from typing import TypeVar

from ..crypto.cipher_suite import Random
from ..registry import WireFormat
from ..schedule.message_protection import Padding, pad_in_steps, protect_private, protect_public, sign
from ..structures.commit import Commit
from ..structures.framing import ApplicationData, AuthenticatedContent, FramedContent, MemberSender, MLSMessage
from ..structures.proposals import AnyProposal, Update
from ..tree.known_tree import KnownTree
from ..tree.leaf_creation import OwnLeaf, update_leaf
from .group_state import MemberState, OwnUpdate
from .proposal_list import SentProposal

__all__ = ["create_update", "protect", "sign_content", "sign_proposal"]

K = TypeVar("K", bound=KnownTree)
S = TypeVar("S", bound=MemberState)  # type: ignore[type-arg]  # of any kind of tree


def sign_content(
    state: MemberState[K], form: WireFormat, content: ApplicationData | AnyProposal | Commit, authenticated_data: bytes
) -> AuthenticatedContent:
    """RFC 9420 6.1: a content, signed by us for this epoch and for one wire format."""
    sender = MemberSender(state.own_index)
    framed = FramedContent(state.group_id, state.epoch, sender, authenticated_data, content)
    signature = sign(state.suite, state.signature_key, form, framed, state.context.encode())
    return AuthenticatedContent(form, framed, signature)


def sign_proposal(
    state: MemberState[K], form: WireFormat, proposal: AnyProposal, authenticated_data: bytes
) -> SentProposal:
    """A proposal of ours, signed, as it waits for a Commit."""
    content = sign_content(state, form, proposal, authenticated_data)
    return SentProposal(proposal, content.content.sender, state.suite.proposal_ref(content.encode()), content)


def create_update(state: MemberState[K], own: OwnLeaf | None, random: Random) -> tuple[Update, OwnUpdate]:
    """RFC 9420 12.1.2: an Update of our leaf, and its private keys.

    :param own: the parts of the new leaf, if more than the encryption key changes
    """
    made_of = own or state.own_leaf_parts()
    leaf, key = update_leaf(state.suite, made_of, state.group_id, state.own_index, random)
    return Update(leaf), OwnUpdate(key, made_of.signature_key)


def protect(
    state: S, content: AuthenticatedContent, padding: Padding = pad_in_steps, random: Random = os.urandom
) -> tuple[bytes, S]:
    """The MLSMessage that carries a signed content, and the state without the key that it used."""
    if content.wire_format is WireFormat.PUBLIC_MESSAGE:
        key, context = state.secrets.membership_key, state.context.encode()
        return MLSMessage.wrap(protect_public(state.suite, content, key, context)), state
    message, tree = protect_private(
        state.suite, content, state.secret_tree, state.secrets.sender_data_secret, padding, random
    )
    return MLSMessage.wrap(message), state.with_secret_tree(tree)
