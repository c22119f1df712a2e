"""A new group, of one member (RFC 9420 11)."""

from __future__ import annotations

import os
from typing import TypeVar

from ...errors import InvalidError
from ..crypto.cipher_suite import Random
from ..parameters import Parameters
from ..registry import ProtocolVersion
from ..schedule.key_schedule import epoch_from_secret
from ..schedule.secret_tree import SecretTree
from ..schedule.transcript import confirmation_tag, interim_transcript_hash
from ..structures.extensions import Extension
from ..structures.group_context import GroupContext
from ..tree.leaf_creation import KeyPackageBundle
from ..tree.leaf_validation import GroupRequirements, check_leaf
from ..tree.ratchet_tree import RatchetTree
from ..tree.tree_math import LeafIndex
from ..tree.treekem import TreeKEMPrivate
from .group_state import GroupState, PublicState
from .joining import check_supported
from .proposal_list import check_context_extensions

__all__ = ["create_group"]

G = TypeVar("G", bound=GroupState)


def create_group(
    make: type[G],
    own: KeyPackageBundle,
    group_id: bytes,
    *,
    extensions: tuple[Extension, ...] = (),
    parameters: Parameters | None = None,
    random: Random = os.urandom,
) -> G:
    """RFC 9420 11: epoch 0 of a group whose only member we are.

    :param own: a KeyPackage of ours, made for this and not published
    :param group_id: unique; 32 random octets, say
    :param extensions: of the GroupContext
    :raises InvalidError: we do not support the extensions
    """
    suite = own.suite
    leaf = own.key_package.leaf_node
    check_context_extensions(extensions, "GroupContext")
    if len(group_id) > 255:
        raise InvalidError("a group id of more than 255 octets")
    tree = RatchetTree.single(suite, leaf)
    context = GroupContext(ProtocolVersion.MLS10, suite.id, group_id, 0, tree.tree_hash(), b"", extensions)
    check_supported(context, leaf.capabilities.extensions)
    check_leaf(leaf, GroupRequirements.of_context(context))
    epoch = epoch_from_secret(suite, random(suite.hash_length))
    tag = confirmation_tag(suite, epoch.secrets.confirmation_key, b"")
    return make(
        public=PublicState(context, tree, interim_transcript_hash(suite, b"", tag), tag),
        secrets=epoch.secrets,
        secret_tree=SecretTree.create(suite, epoch.encryption_secret, tree.leaf_count),
        private=TreeKEMPrivate.of_leaf(LeafIndex(0), own.leaf_key),
        signature_key=own.signature_key,
        parameters=parameters or Parameters(),
    )
