"""Making a processed message the state, alike for full and partial members."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from ...errors import UsageError
from ..schedule.secret_tree import SecretTree
from .group_state import MemberState
from .message_processing import ReceivedMessage, ReceivedProposal

__all__ = ["apply_message", "apply_proposal"]

M = TypeVar("M", bound=MemberState[Any])


def apply_message(state: M, received: ReceivedMessage) -> M:
    """The state without the key of an application message.

    :raises UsageError: the state has moved on since the message was processed
    """
    if received.epoch == state.epoch:
        _check_base(state.secret_tree, received.base)
        return state.with_secret_tree(received.secret_tree)
    past = []
    for each in state.past:
        if each.epoch == received.epoch:
            _check_base(each.secret_tree, received.base)
            each = replace(each, secret_tree=received.secret_tree)
        past.append(each)
    return replace(state, past=tuple(past))


def apply_proposal(state: M, received: ReceivedProposal) -> M:
    """The state in which a proposal waits for a Commit.

    :raises UsageError: it is of another epoch, or the state has moved on since it was processed
    """
    content = received.sent.content
    if content is None or (content.content.group_id, received.epoch) != (state.group_id, state.epoch):
        raise UsageError("a proposal of another epoch")
    if received.secret_tree is None:
        return state.with_proposal(received.sent)
    _check_base(state.secret_tree, received.base)
    return state.with_proposal(received.sent).with_secret_tree(received.secret_tree)


def _check_base(tree: SecretTree, base: SecretTree) -> None:
    # Otherwise a key that was used meanwhile would come back (RFC 9420 9.2).
    if base is not tree:
        raise UsageError("the state has moved on since this was processed")
