"""Joining a group by a Welcome (RFC 9420 12.4.3.1).

::

    Welcome ── our entry, by KeyPackageRef ── init key ──► GroupSecrets
            ── joiner_secret, PSKs ──────────────────────► GroupInfo
    GroupInfo ── signature, tree, our leaf, confirmation tag ──► StagedJoin ──► the application judges
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, MutableSet
from dataclasses import dataclass
from typing import NewType

from immutables import Map

from ...errors import InvalidError, NotForUs, UsageError
from ..crypto.cipher_suite import CipherSuite
from ..parameters import Parameters
from ..registry import DEFAULT_EXTENSIONS, GREASE, ExtensionType, ProtocolVersion
from ..schedule.key_schedule import derive_epoch, welcome_key
from ..schedule.psk_secret import psk_secret
from ..schedule.secret_tree import SecretTree
from ..schedule.transcript import interim_transcript_hash, verify_confirmation_tag
from ..structures.credential import AnyCredential
from ..structures.extensions import check_unique
from ..structures.group_context import GroupContext
from ..structures.leaf_node import LeafNode
from ..structures.psk import PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from ..structures.welcome import GroupInfo, GroupSecrets, Welcome, group_info_tbs
from ..tree.leaf_creation import KeyPackageBundle
from ..tree.ratchet_tree import RatchetTree
from ..tree.tree_math import LeafIndex
from ..tree.tree_validation import VerifiedTree, verify_tree
from ..tree.treekem import TreeKEMPrivate, public_path
from .group_state import GroupState, PSKLookup, PublicGroup, PublicState, no_psks
from .proposal_list import check_context_extensions

__all__ = [
    "GroupLookup", "Identify", "OpenedWelcome", "StagedJoin", "UnverifiedGroupInfo", "check_not_in", "check_supported",
    "credential_of", "find_tree", "join", "open_welcome", "peek", "public_of", "verify_group_info",
]  # fmt: skip

GroupLookup = Callable[[bytes], GroupState | None]
"""Gives a group of ours by its id, for a Welcome that continues it (RFC 9420 11.2, 11.3)."""


Identify = Callable[[LeafNode], Hashable]
"""Gives the same for two leaves exactly if they represent the same client (RFC 9420 5.3.1)."""


def credential_of(leaf: LeafNode) -> AnyCredential:
    """The plainest :data:`Identify`: the same client has the same credential."""
    return leaf.credential


UnverifiedGroupInfo = NewType("UnverifiedGroupInfo", GroupInfo)
"""A GroupInfo from anybody who knows our KeyPackage; verifying its signature takes the ratchet tree."""


@dataclass(frozen=True, slots=True)
class StagedJoin:
    """A valid Welcome, not yet accepted.

    :ivar state: the group as it will be
    :ivar inviter: leaf of the member that signed the GroupInfo
    :ivar reference: the KeyPackageRef that was used
    :ivar continues: name of the resumption PSK by which the group continues another one
    """

    state: GroupState
    inviter: LeafIndex
    reference: bytes
    continues: ResumptionPSK | None


def find_tree(suite: CipherSuite, group_info: GroupInfo, tree: bytes | RatchetTree | None) -> RatchetTree:
    """The ratchet tree, not verified: inside the GroupInfo, or from beside it (RFC 9420 12.4.3.3).

    :raises InvalidError: there is none
    :raises MalformedError: it cannot be parsed
    """
    if isinstance(tree, RatchetTree):
        return tree
    if tree is None:
        for extension in group_info.extensions:
            if extension.extension_type == ExtensionType.RATCHET_TREE:
                tree = extension.extension_data
    if tree is None:
        raise InvalidError("no ratchet tree, neither inside nor beside", "RFC 9420 12.4.3.3")
    return RatchetTree.decode(suite, tree)


def verify_group_info(suite: CipherSuite, group_info: GroupInfo, signer: LeafNode) -> None:
    """RFC 9420 12.4.3: the GroupInfo is signed by the member that it names.

    :raises InvalidError: it is not
    """
    check_unique(group_info.extensions, "GroupInfo")
    check_context_extensions(group_info.group_context.extensions, "GroupContext")
    if group_info.group_context.version != ProtocolVersion.MLS10:
        raise InvalidError(f"protocol version {group_info.group_context.version}", "RFC 9420 6")
    suite.verify_with_label(signer.signature_key, "GroupInfoTBS", group_info_tbs(group_info), group_info.signature)


def public_of(
    group_info: GroupInfo,
    *,
    tree: bytes | RatchetTree | None = None,
    lifetime_limit: int | None = None,
    remembered: MutableSet[bytes] | None = None,
) -> PublicGroup:
    """The public state of a group that a GroupInfo describes, verified as far as an outsider can.

    :param tree: the ratchet tree, if it came beside the GroupInfo
    :param lifetime_limit: the longest lifetime that a leaf may have, seconds (RFC 9420 7.2); None: any
    :param remembered: signatures verified before
    :raises InvalidError: it is not acceptable
    """
    context = group_info.group_context
    suite = CipherSuite.get(context.cipher_suite)
    found = find_tree(suite, group_info, tree)
    verify_group_info(suite, group_info, found.member(group_info.signer))  # refuses a blank leaf
    verified = verify_tree(found, context, lifetime_limit=lifetime_limit, remembered=remembered)
    interim = interim_transcript_hash(suite, context.confirmed_transcript_hash, group_info.confirmation_tag)
    return PublicState(context, verified, interim, group_info.confirmation_tag)


def check_supported(context: GroupContext, supported: tuple[int, ...]) -> None:
    """RFC 9420 13.4: we support every extension in the GroupContext.  GREASE is not support (13.5).

    :param supported: of our own Capabilities
    :raises InvalidError: we do not
    """
    known = DEFAULT_EXTENSIONS.union(supported) - GREASE
    for extension in context.extensions:
        if extension.extension_type not in known:
            raise InvalidError(f"unsupported extension {extension.extension_type:#06x}", "RFC 9420 13.4")


def check_not_in(group_id: bytes, groups: GroupLookup) -> None:
    """RFC 9420 12.4.3.1: a new group has an id of its own.

    :raises InvalidError: we are in a group of this id that was not reinitialized
    """
    same = groups(group_id)
    if same is not None and same.closed is None:
        raise InvalidError("we are in a group of this id", "RFC 9420 12.4.3.1")


def join(
    welcome: Welcome,
    bundle: KeyPackageBundle,
    *,
    make: type[GroupState],
    tree: bytes | RatchetTree | None = None,
    psks: PSKLookup = no_psks,
    groups: GroupLookup = lambda group_id: None,
    identify: Identify = credential_of,
    parameters: Parameters | None = None,
    remembered: MutableSet[bytes] | None = None,
    public: PublicGroup | None = None,
) -> StagedJoin:
    """RFC 9420 12.4.3.1: the group that a Welcome lets us into.

    :param bundle: the KeyPackage that the Welcome is for
    :param tree: the ratchet tree, if it came beside the Welcome
    :param groups: the groups that we are in: no new one may have the id of one of these, but may continue it
    :param identify: for the comparison of its members with those of a group that it continues
    :param remembered: signatures verified before
    :param public: what :func:`public_of` has made of the same GroupInfo, perhaps in another thread
    :raises NotForUs: it is for none of our KeyPackages
    :raises InvalidError: it is not acceptable
    """
    opened = open_welcome(welcome, bundle, psks, groups)
    suite, secrets, group_info, value = bundle.suite, opened.secrets, opened.group_info, opened.psk_secret
    context = group_info.group_context

    check_not_in(context.group_id, groups)
    leaf = bundle.key_package.leaf_node
    check_supported(context, leaf.capabilities.extensions)
    limits = parameters or Parameters()
    if public is None:
        public = public_of(group_info, tree=tree, lifetime_limit=limits.lifetime_limit, remembered=remembered)
    elif (public.context, public.confirmation_tag) != (context, group_info.confirmation_tag):
        raise UsageError("the public state of another group, or of another epoch")
    else:  # the GroupContext, and with it the tree, are the same; only who has signed them may be another
        verify_group_info(suite, group_info, public.tree.member(LeafIndex(group_info.signer)))
    verified = VerifiedTree(public.tree)
    index = verified.leaf_by_signature_key(leaf.signature_key)
    if index is None or verified.leaf(index) != leaf:
        raise InvalidError("our leaf is not in the tree", "RFC 9420 12.4.3.1")
    inviter = LeafIndex(group_info.signer)
    path_secret = secrets.path_secret.path_secret if secrets.path_secret is not None else None
    above = public_path(verified, inviter)
    private = TreeKEMPrivate.joining(suite, index, leaf, bundle.leaf_key, inviter, above, path_secret)

    epoch = derive_epoch(suite, secrets.joiner_secret, value, context.encode())
    confirmed = context.confirmed_transcript_hash
    verify_confirmation_tag(suite, epoch.secrets.confirmation_key, confirmed, group_info.confirmation_tag)
    if opened.continued is not None:
        _check_continues(opened.continued, context, verified, groups, identify)
    state = make(
        public=public,
        secrets=epoch.secrets,
        secret_tree=SecretTree.create(suite, epoch.encryption_secret, verified.leaf_count),
        private=private,
        signature_key=bundle.signature_key,
        parameters=limits,
        resumption_psks=Map(),
    )
    return StagedJoin(state, inviter, bundle.reference, opened.continued)


@dataclass(frozen=True, slots=True, repr=False)
class OpenedWelcome:
    """A Welcome, decrypted."""

    secrets: GroupSecrets
    continued: ResumptionPSK | None
    psk_secret: bytes
    group_info: UnverifiedGroupInfo


def peek(
    welcome: Welcome,
    bundle: KeyPackageBundle,
    *,
    psks: PSKLookup = no_psks,
    groups: GroupLookup = lambda group_id: None,
) -> UnverifiedGroupInfo:
    """The GroupInfo inside a Welcome, to learn where the ratchet tree is (RFC 9420 12.4.3.3) before :func:`join`.

    Nothing in it has been verified.

    :raises NotForUs: it is for none of our KeyPackages
    :raises PeerError: it cannot be decrypted
    """
    return open_welcome(welcome, bundle, psks, groups).group_info


def open_welcome(welcome: Welcome, bundle: KeyPackageBundle, psks: PSKLookup, groups: GroupLookup) -> OpenedWelcome:
    """RFC 9420 12.4.3.1, up to the GroupInfo."""
    suite = bundle.suite
    if welcome.cipher_suite != suite.id:
        raise InvalidError("Welcome of another cipher suite than our KeyPackage's", "RFC 9420 12.4.3.1")
    secrets = _open_secrets(welcome, bundle)
    continued = _continued(secrets.psks)
    value = psk_secret(suite, [(name, _psk(name, groups, psks)) for name in secrets.psks])
    key = welcome_key(suite, secrets.joiner_secret, value)
    group_info = GroupInfo.decode(suite.aead_open(key.key, key.nonce, b"", welcome.encrypted_group_info))
    if group_info.group_context.cipher_suite != suite.id:
        raise InvalidError("GroupInfo of another cipher suite than our KeyPackage's", "RFC 9420 12.4.3.1")
    return OpenedWelcome(secrets, continued, value, UnverifiedGroupInfo(group_info))


def _open_secrets(welcome: Welcome, bundle: KeyPackageBundle) -> GroupSecrets:
    """Our entry, found by its KeyPackageRef: no other one is tried."""
    reference = bundle.reference
    for entry in welcome.secrets:
        if entry.new_member == reference:
            octets = bundle.suite.decrypt_with_label(
                bundle.init_key, "Welcome", welcome.encrypted_group_info, entry.encrypted_group_secrets
            )
            return GroupSecrets.decode(octets)
    raise NotForUs("the Welcome is for other KeyPackages", "RFC 9420 12.4.3.1")


def _psk(name: PreSharedKeyID, groups: GroupLookup, psks: PSKLookup) -> bytes:
    """A PSK that a Welcome names.  Anybody can name many, so the lookup that restores a whole group comes last."""
    value = psks(name.psk)
    if value is None and isinstance(name.psk, ResumptionPSK):
        group = groups(name.psk.psk_group_id)
        value = None if group is None else group.resumption_psk(name.psk.psk_epoch)
    if value is None:
        raise InvalidError("a PSK that we do not have", "RFC 9420 12.4.3.1")
    return value


def _continued(names: tuple[PreSharedKeyID, ...]) -> ResumptionPSK | None:
    """RFC 9420 12.4.3.1: at most one PSK says that the group continues another."""
    found = [
        name.psk
        for name in names
        if isinstance(name.psk, ResumptionPSK) and name.psk.usage != ResumptionPSKUsage.APPLICATION
    ]
    if len(found) > 1:
        raise InvalidError("more than one PSK for reinit or branch", "RFC 9420 12.4.3.1")
    return found[0] if found else None


def _check_continues(
    name: ResumptionPSK, context: GroupContext, tree: VerifiedTree, groups: GroupLookup, identify: Identify
) -> None:
    """RFC 9420 12.4.3.1, last item: what a group must be like that continues another."""
    old = groups(name.psk_group_id)
    if old is None:
        raise InvalidError("continues a group that we are not in", "RFC 9420 12.4.3.1")
    if context.epoch != 1:
        raise InvalidError("a group that continues another begins with epoch 1", "RFC 9420 12.4.3.1")
    old_members = {identify(leaf) for _, leaf in old.members()}
    new_members = {identify(leaf) for _, leaf in tree.members()}
    if name.usage == ResumptionPSKUsage.REINIT:
        asked = old.closed
        if asked is None or old.epoch != name.psk_epoch:
            raise InvalidError("the old group was not reinitialized", "RFC 9420 12.4.3.1")
        made = (context.group_id, context.version, context.cipher_suite, context.extensions)
        if made != (asked.group_id, asked.version, asked.cipher_suite, asked.extensions):
            raise InvalidError("another group than the ReInit asked for", "RFC 9420 12.4.3.1")
        if old_members != new_members:  # 11.2: "the same members"; nobody's proof but the PSK's lets anybody else in
            raise InvalidError("not the members of the old group", "RFC 9420 11.2, 12.4.3.1")
    else:
        if (context.version, context.cipher_suite) != (old.context.version, old.context.cipher_suite):
            raise InvalidError("a subgroup of another version or cipher suite", "RFC 9420 11.3")
        if not new_members <= old_members:
            raise InvalidError("a subgroup with members from outside", "RFC 9420 11.3")
