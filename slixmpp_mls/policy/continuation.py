"""Checks the clients of a group that follows a closed one by a ReInit (RFC 9420 11.2): which key proves each of them?

RFC 9420 11.2 requires the same members, and says nothing of their keys.  Any member may make the group that follows, so
by a key of its own in another's name it would get that client's rights.  The closed group has a key of each client:

- The new leaf of a client has the same signature key as in the closed group; or, under another signature scheme, it has
  the client's own voucher by that key (:func:`.proofs.vouches_for_own_key`).
- A newcomer stays one: it keeps its mark, and nobody else gets one.

An administrator with `may_add`, whose own leaf is proven, needs no proof for the others: it may replace any of them by
an Add, and confirm newcomers by one.

The result depends on the closed group and the new leaves alone, never on a clock or on the Authentication Service.  So
all members follow the same creation.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import PolicyViolation
from ..identity import ClientIdentity
from ..mls.structures.leaf_node import LeafNode
from .proofs import is_newcomer, vouches_for_own_key
from .view import GroupView

__all__ = ["check_continuation"]


def check_continuation(closed: GroupView, leaves: Iterable[LeafNode], maker: ClientIdentity) -> None:
    """Check the leaves of a group that follows by a ReInit; see the module.

    The caller has checked that its clients are those of the closed group.

    :param closed: the closed group
    :param leaves: those of the group that follows
    :param maker: the client that makes it, which signs its GroupInfo
    :raises PolicyViolation: a leaf is not proven
    :raises MalformedError: the vouchers of a leaf cannot be parsed
    :raises InvalidError: the credential of a leaf names no client
    """
    found = {ClientIdentity.from_leaf(leaf): leaf for leaf in leaves}
    first = found.get(maker)
    if first is None or not _is_proven(closed, maker, first):
        raise PolicyViolation("reinit", "the leaf of the group's maker is not proven by its key", str(maker))
    if _adds_by_right(closed, maker):
        return
    for client, leaf in found.items():
        if not _is_proven(closed, client, leaf):
            raise PolicyViolation("reinit", f"the new key of {client} is not proven by its former one", str(maker))
        index = closed.roster.leaf_of(client)
        if index is not None and is_newcomer(leaf) != closed.roster.is_newcomer(index):
            raise PolicyViolation("reinit", f"{client} gains or loses the mark of a newcomer", str(maker))


def _adds_by_right(closed: GroupView, maker: ClientIdentity) -> bool:
    policy, roster = closed.policy, closed.roster
    index = roster.leaf_of(maker)
    return (
        index is not None
        and roster.counts(index)
        and policy.permits(policy.may_add, maker.account, roster)
        and policy.is_administrator(maker.account, roster)
    )


def _is_proven(closed: GroupView, client: ClientIdentity, leaf: LeafNode) -> bool:
    index = closed.roster.leaf_of(client)
    if index is None:
        return False
    key = closed.leaf(index).signature_key
    return leaf.signature_key == key or vouches_for_own_key(closed.suite, key, leaf)
