"""Joining by an AnnotatedWelcome (draft-ietf-mls-partial Joining via Annotated Welcome; RFC 9420 12.4.3.1)."""

from __future__ import annotations

from collections.abc import MutableSet
from dataclasses import dataclass
from typing import Generic, TypeVar

from ...errors import InvalidError
from ..group.group_state import MemberState, PSKLookup, no_psks
from ..group.joining import GroupLookup, check_not_in, check_supported, open_welcome, verify_group_info
from ..group.staging import public_group
from ..parameters import Parameters
from ..schedule.key_schedule import derive_epoch
from ..schedule.secret_tree import SecretTree
from ..schedule.transcript import verify_confirmation_tag
from ..structures.partial import AnnotatedWelcome
from ..structures.welcome import GroupInfo
from ..tree.leaf_creation import KeyPackageBundle
from ..tree.leaf_validation import GroupRequirements, LeafRules, check_leaf
from ..tree.partial_tree import PartialTree
from ..tree.tree_math import LeafIndex
from ..tree.tree_slice import TreeSlice
from ..tree.treekem import TreeKEMPrivate

__all__ = ["PartialState", "StagedPartialJoin", "join"]

_DRAFT = "draft-ietf-mls-partial Joining via Annotated Welcome"

PartialState = MemberState[PartialTree]
"""The state of a member that knows the proved part of the tree."""

P = TypeVar("P", bound=PartialState)


@dataclass(frozen=True, slots=True)
class StagedPartialJoin(Generic[P]):
    """A valid AnnotatedWelcome, not yet accepted.

    :ivar state: the group as it will be; it knows two members, the inviter and us
    :ivar inviter: leaf of the member that signed the GroupInfo
    :ivar reference: the KeyPackageRef that was used
    :ivar group_info: verified; its extensions may say where the ratchet tree is
    """

    state: P
    inviter: LeafIndex
    reference: bytes
    group_info: GroupInfo


def join(
    annotated: AnnotatedWelcome,
    bundle: KeyPackageBundle,
    *,
    make: type[P],
    psks: PSKLookup = no_psks,
    groups: GroupLookup = lambda group_id: None,
    parameters: Parameters | None = None,
    remembered: MutableSet[bytes] | None = None,
) -> StagedPartialJoin[P]:
    """The group that an AnnotatedWelcome lets us into.

    :param bundle: the KeyPackage that the Welcome is for
    :param groups: the groups that we are in: no new one may have the id of one of these
    :param remembered: signatures verified before
    :raises NotForUs: it is for none of our KeyPackages
    :raises InvalidError: it is not acceptable
    """
    opened = open_welcome(annotated.welcome.message, bundle, psks, groups)
    suite, secrets, group_info = bundle.suite, opened.secrets, opened.group_info
    context, leaf = group_info.group_context, bundle.key_package.leaf_node
    parameters = parameters or Parameters()
    check_not_in(context.group_id, groups)
    if opened.continued is not None:
        # RFC 9420 12.4.3.1 compares its members with those of the old group; they are not known here.
        raise InvalidError("a group that continues another one is joined with the whole tree", "RFC 9420 12.4.3.1")
    check_supported(context, leaf.capabilities.extensions)

    inviter = TreeSlice.of(suite, annotated.welcome.sender_membership_proof)
    own = TreeSlice.of(suite, annotated.joiner_membership_proof)
    own.require(inviter.tree_hash, inviter.leaf_count)  # step 1: both reference the same tree
    inviter.require(context.tree_hash)  # step 2: the GroupInfo's
    if group_info.signer != inviter.index:
        raise InvalidError("a membership proof of another member than the signer", _DRAFT)
    verify_group_info(suite, group_info, inviter.leaf)
    if own.leaf != leaf:
        raise InvalidError("our leaf is not in the tree", "RFC 9420 12.4.3.1")
    requirements = GroupRequirements.of_context(context)
    check_leaf(leaf, requirements)
    rules = LeafRules(None, parameters.lifetime_limit, 0, remembered)
    rules.check_in_group(context.group_id, inviter.index, inviter.leaf, requirements)

    path_secret = None if secrets.path_secret is None else secrets.path_secret.path_secret
    above = [(node, parent.encryption_key) for node, parent in inviter.parents]
    private = TreeKEMPrivate.joining(suite, own.index, leaf, bundle.leaf_key, inviter.index, above, path_secret)
    epoch = derive_epoch(suite, secrets.joiner_secret, opened.psk_secret, context.encode())
    confirmed = context.confirmed_transcript_hash
    verify_confirmation_tag(suite, epoch.secrets.confirmation_key, confirmed, group_info.confirmation_tag)
    tree = PartialTree(own).with_member(inviter.index, inviter.leaf)
    state = make(
        public=public_group(context, tree, group_info.confirmation_tag),
        secrets=epoch.secrets,
        secret_tree=SecretTree.create(suite, epoch.encryption_secret, tree.leaf_count),
        private=private,
        signature_key=bundle.signature_key,
        parameters=parameters,
    )
    return StagedPartialJoin(state, inviter.index, bundle.reference, group_info)
