"""Groups that continue groups (RFC 9420 11.2 ReInit, 11.3 branching).

In both cases a member creates a new group and adds the others in its first Commit, which mixes
in a resumption PSK of the old group: only members of the old one can join.

Like any Commit it is made in two steps (:mod:`.commit_creation`): a :class:`CreationDraft`, whose ratchet tree
can be brought to a place of its own, and the messages.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from ...errors import InvalidError, UsageError
from ..crypto.cipher_suite import CipherSuite, Random
from ..structures.extensions import Extension
from ..structures.key_package import KeyPackage
from ..structures.proposals import Add, AnyProposal, PreSharedKey
from ..structures.psk import ExternalPSK, PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from ..tree.leaf_creation import KeyPackageBundle
from ..tree.leaf_validation import LeafRules
from ..tree.ratchet_tree import RatchetTree
from .commit_creation import CommitBundle, CommitDraft, CommitOptions, draft_commit, finish_commit
from .group_creation import create_group
from .group_state import GroupState, PSKLookup
from .joining import Identify, credential_of

__all__ = ["CreationArguments", "CreationDraft", "branch", "reinitialize"]


@dataclass(frozen=True, slots=True, repr=False)
class CreationDraft:
    """A group that continues another one, and its first Commit."""

    group: GroupState
    commit: CommitDraft

    def __repr__(self) -> str:
        return f"<CreationDraft of {self.group!r}>"

    @property
    def group_id(self) -> bytes:
        return self.group.group_id

    @property
    def tree(self) -> RatchetTree:
        """The ratchet tree of the group that it lets everybody into."""
        return self.commit.tree

    def finish(self, *, instead_of_tree: Extension | None = None, random: Random = os.urandom) -> CommitBundle:
        """The messages; may be made more than once, as long as one of them is used.

        :param instead_of_tree: a GroupInfo extension that says where the ratchet tree is, if it is not to be inside
        """
        return finish_commit(self.commit, self.group, instead_of_tree=instead_of_tree, random=random)


class CreationArguments(TypedDict, total=False):
    """The arguments of :func:`reinitialize` and :func:`branch` that :class:`.Group` hands on."""

    identify: Identify
    options: CommitOptions | None
    random: Random


def reinitialize(
    old: GroupState,
    own: KeyPackageBundle,
    others: Sequence[KeyPackage],
    rules: LeafRules,
    *,
    identify: Identify = credential_of,
    options: CommitOptions | None = None,
    random: Random = os.urandom,
) -> CreationDraft:
    """RFC 9420 11.2, step 3: the group that a committed ReInit asked for.  Any member may make it.

    :param old: the group that the ReInit has closed
    :param own: a KeyPackage of ours for the new group's cipher suite
    :param others: KeyPackages of all other members of the old group
    :param identify: who is who, in the old group and the new one
    :raises UsageError: the old group was not reinitialized
    :raises InvalidError: a member is missing or new, or a KeyPackage does not fit
    """
    asked = old.closed
    if asked is None:
        raise UsageError("the group was not reinitialized")
    if (asked.version, asked.cipher_suite) != (own.key_package.version, own.key_package.cipher_suite):
        raise InvalidError("a KeyPackage of another version or cipher suite than the ReInit asks for", "RFC 9420 11.2")
    if _members(old, identify) != {identify(package.leaf_node) for package in (own.key_package, *others)}:
        raise InvalidError("not the members of the old group", "RFC 9420 11.2")
    return _continue(
        old, own, others, asked.group_id, asked.extensions, ResumptionPSKUsage.REINIT, rules, options, random
    )


def branch(
    old: GroupState,
    group_id: bytes,
    own: KeyPackageBundle,
    others: Sequence[KeyPackage],
    rules: LeafRules,
    *,
    extensions: tuple[Extension, ...] = (),
    identify: Identify = credential_of,
    options: CommitOptions | None = None,
    random: Random = os.urandom,
) -> CreationDraft:
    """RFC 9420 11.3: a group of some of a group's members.

    :param own: a KeyPackage of ours, of the old group's cipher suite
    :param others: KeyPackages of members of the old group
    :raises InvalidError: somebody is no member of it, or a KeyPackage does not fit
    """
    members = _members(old, identify)
    for package in (own.key_package, *others):
        if identify(package.leaf_node) not in members:
            raise InvalidError("a subgroup with members from outside", "RFC 9420 11.3")
    if own.suite is not old.suite:
        raise InvalidError("a subgroup of another cipher suite", "RFC 9420 11.3")
    return _continue(old, own, others, group_id, extensions, ResumptionPSKUsage.BRANCH, rules, options, random)


def _members(group: GroupState, identify: Identify) -> set[Hashable]:
    return {identify(leaf) for _, leaf in group.members()}


def _continue(
    old: GroupState,
    own: KeyPackageBundle,
    others: Sequence[KeyPackage],
    group_id: bytes,
    extensions: tuple[Extension, ...],
    usage: ResumptionPSKUsage,
    rules: LeafRules,
    options: CommitOptions | None,
    random: Random,
) -> CreationDraft:
    suite: CipherSuite = own.suite
    group = create_group(type(old), own, group_id, extensions=extensions, parameters=old.parameters, random=random)
    name = ResumptionPSK(usage, old.group_id, old.epoch)
    proposals: tuple[AnyProposal, ...] = (
        *(Add(package) for package in others),
        PreSharedKey(PreSharedKeyID(name, random(suite.hash_length))),
    )
    first = replace(options or CommitOptions(), psk_usage=usage)
    draft = draft_commit(group, rules, by_value=proposals, options=first, psks=_of(old, name), random=random)
    return CreationDraft(group, draft)


def _of(old: GroupState, wanted: ResumptionPSK) -> PSKLookup:
    def lookup(name: ExternalPSK | ResumptionPSK) -> bytes | None:
        return old.resumption_psk(old.epoch) if name == wanted else None

    return lookup
