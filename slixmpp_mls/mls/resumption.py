"""Groups that continue groups (RFC 9420 11.2 ReInit, 11.3 branching).

In both cases a member creates a new group and adds the others in its first Commit, which mixes
in a resumption PSK of the old group: only who was in the old one can join.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..errors import InvalidError, UsageError
from .cipher_suite import CipherSuite, Random
from .commit_creation import CommitBundle, CommitOptions, create_commit
from .creation import create_group
from .credential import AnyCredential
from .extensions import Extension
from .group_state import GroupState, PSKLookup
from .key_package import KeyPackage
from .leaf_validation import LeafRules
from .own_leaf import KeyPackageBundle
from .proposals import Add, AnyProposal, PreSharedKey
from .psk import ExternalPSK, PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage

__all__ = ["branch", "reinitialize"]


def reinitialize(
    old: GroupState,
    own: KeyPackageBundle,
    others: Sequence[KeyPackage],
    rules: LeafRules,
    *,
    options: CommitOptions | None = None,
    random: Random = os.urandom,
) -> CommitBundle:
    """RFC 9420 11.2, step 3: the group that a committed ReInit asked for.  Any member may make it.

    :param old: the group that the ReInit has closed
    :param own: a KeyPackage of ours for the new group's cipher suite
    :param others: KeyPackages of all other members of the old group
    :raises UsageError: the old group was not reinitialized
    :raises InvalidError: a member is missing, or a KeyPackage does not fit
    """
    asked = old.closed
    if asked is None:
        raise UsageError("the group was not reinitialized")
    staying = {leaf.credential for _, leaf in old.members()}
    present = {package.leaf_node.credential for package in others} | {own.key_package.leaf_node.credential}
    if not staying <= present:
        raise InvalidError("members of the old group are missing", "RFC 9420 11.2")
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
    options: CommitOptions | None = None,
    random: Random = os.urandom,
) -> CommitBundle:
    """RFC 9420 11.3: a group of some of a group's members.

    :param own: a KeyPackage of ours, of the old group's cipher suite
    :param others: KeyPackages of members of the old group
    :raises InvalidError: somebody is no member of it, or a KeyPackage does not fit
    """
    members: set[AnyCredential] = {leaf.credential for _, leaf in old.members()}
    for package in others:
        if package.leaf_node.credential not in members:
            raise InvalidError("a subgroup with members from outside", "RFC 9420 11.3")
    if own.suite is not old.suite:
        raise InvalidError("a subgroup of another cipher suite", "RFC 9420 11.3")
    return _continue(old, own, others, group_id, extensions, ResumptionPSKUsage.BRANCH, rules, options, random)


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
) -> CommitBundle:
    suite: CipherSuite = own.suite
    group = create_group(
        type(old), own, group_id, extensions=extensions, parameters=old.parameters, random=random
    )
    name = ResumptionPSK(usage, old.group_id, old.epoch)
    proposals: tuple[AnyProposal, ...] = (
        *(Add(package) for package in others),
        PreSharedKey(PreSharedKeyID(name, random(suite.hash_length))),
    )
    given = options or CommitOptions()
    first = CommitOptions(
        path=given.path,
        public=given.public,
        tree_in_welcome=given.tree_in_welcome,
        group_info=given.group_info,
        psk_usage=usage,
    )
    return create_commit(group, rules, by_value=proposals, options=first, psks=_of(old, name), random=random)


def _of(old: GroupState, wanted: ResumptionPSK) -> PSKLookup:
    def lookup(name: ExternalPSK | ResumptionPSK) -> bytes | None:
        return old.resumption_psk(old.epoch) if name == wanted else None

    return lookup
