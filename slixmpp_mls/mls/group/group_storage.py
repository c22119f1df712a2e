"""A group's state for a store, in pieces that change separately.

A message changes one ratchet, a Commit O(log n) nodes; a store writes just these.  The state is
a map from names to octets, all of it secret:

=============================  =============================================================
name                           content
=============================  =============================================================
``E``                          :class:`EpochRecord`
``S``                          the epoch's secrets
``I``                          our private signature key
``T`` node                     a node of the ratchet tree, or a piece of a :mod:`slixmpp_mls.mls.tree.partial_tree`
``H`` node                     tree hashes of the ratchet tree, see :mod:`slixmpp_mls.mls.tree.hash_records`
``K`` node                     a private key of the tree
``R`` epoch, piece             a piece of an epoch's secret tree, see :mod:`slixmpp_mls.mls.schedule.secret_tree`
``Q`` epoch, number            a proposal that waits for a Commit, as it was signed
``U`` epoch, ProposalRef       the private keys of an Update of ours
``N`` epoch, ProposalRef       empty: this proposal is ours, and the group has not shown it yet
``P`` epoch                    :class:`PastRecord` of an ended epoch
``L`` epoch, leaf              a leaf that was different in an ended epoch, or was proved in it
``Y`` epoch                    a resumption PSK
=============================  =============================================================

Epochs take eight octets, other numbers four, big endian.  Pieces of an epoch that is neither the
present one nor among the ended ones are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from operator import is_
from struct import Struct as Layout
from typing import Any, ClassVar, TypeVar

from immutables import Map

from ...errors import InvalidError
from ..crypto.cipher_suite import CipherSuite
from ..parameters import Parameters
from ..schedule.key_schedule import EpochSecrets
from ..schedule.secret_tree import SecretTree
from ..structures.framing import AuthenticatedContent, MemberSender
from ..structures.group_context import GroupContext
from ..structures.leaf_node import LeafNode
from ..structures.proposals import ReInit
from ..tls import Struct, opaque, struct, uint32, uint64
from ..tree.known_tree import KnownTree
from ..tree.ratchet_tree import RatchetTree
from ..tree.tree_math import LeafIndex
from ..tree.treekem import TreeKEMPrivate
from .commit_effects import Effects
from .group_state import GroupState, MemberState, OwnUpdate, PastEpoch, PublicState
from .proposal_list import SentProposal
from .staging import StagedCommit

__all__ = [
    "Changes", "changes_since", "each_piece", "pieces", "restore", "restore_staged", "resumption_psk", "staged_pieces",
    "stored",
]  # fmt: skip

T = TypeVar("T", bound=KnownTree)
G = TypeVar("G", bound=GroupState)
M = TypeVar("M", bound=MemberState[Any])

RestoreTree = Callable[[CipherSuite, Mapping[bytes, bytes], Mapping[bytes, bytes]], T]
"""Makes a tree from its pieces, and from the records of its hashes."""

Changes = dict[bytes, bytes | None]
"""Pieces to write; None for those to delete."""

_EPOCH = Layout(">cQ")
_NUMBER = Layout(">I")
_SIGNATURE_KEY = b"I"
_COMMIT = b"C"  # the StagedRecord of a Commit, beside its pieces


@struct
class EpochRecord(Struct):
    """The public frame of the present epoch, and our place in it."""

    context: GroupContext
    interim_transcript_hash: opaque
    confirmation_tag: opaque
    own_index: uint32
    closed: ReInit | None


@struct
class PastRecord(Struct):
    """An ended epoch."""

    secret: ClassVar[bool] = True
    context: opaque
    sender_data_secret: opaque
    leaf_count: uint32
    ended: uint64


@struct
class LeafRecord(Struct):
    """A leaf of an ended epoch; it may have been blank."""

    leaf: LeafNode | None


@struct
class UpdateRecord(Struct):
    """The private keys of an Update of ours."""

    secret: ClassVar[bool] = True
    leaf_key: opaque
    signature_key: opaque


@struct
class StagedRecord(Struct):
    """A Commit that waits: which epoch it ends, and what it changes."""

    base_tag: opaque
    effects: Effects


def _epoch(letter: bytes, epoch: int) -> bytes:
    return _EPOCH.pack(letter, epoch)


def _prefixed(prefix: bytes, values: Mapping[bytes, Any]) -> dict[bytes, Any]:
    return {prefix + name: value for name, value in values.items()}


def pieces(group: MemberState[T]) -> dict[bytes, bytes]:
    """All of it."""
    return dict(each_piece(group))


def each_piece(group: MemberState[T]) -> Iterator[tuple[bytes, bytes]]:
    """The same, one by one: those of a large tree are never in memory together."""
    for name, value in group.tree.each_piece():
        yield b"T" + name, value
    found: dict[bytes, bytes] = {
        **_prefixed(b"H", group.tree.hash_records()),
        **_prefixed(b"K", group.private.pieces()),
        **_frame(group),
        **_proposals(group),
    }
    for epoch, tree in _secret_trees(group).items():
        found.update(_prefixed(_epoch(b"R", epoch), tree.pieces()))
    for past in group.past:
        found.update(_past(past))
    for epoch, psk in group.resumption_psks.items():
        found[_epoch(b"Y", epoch)] = psk
    yield from found.items()


def changes_since(group: MemberState[T], old: MemberState[T]) -> Changes:
    """The pieces that differ from an older state's, in time proportional to the difference.

    :param old: a state from which `group` comes, as :func:`stored` returned it
    """
    changes: Changes = {
        **_prefixed(b"T", group.tree.changes_since(old.tree)),
        **_prefixed(b"H", group.tree.hash_record_changes_since(old.tree)),
        **_prefixed(b"K", group.private.changes_since(old.private)),
    }
    if group.public is not old.public or group.closed is not old.closed:
        changes.update(_frame_changes(group, old))
    if group.public is not old.public or group.updates is not old.updates or group.unshown != old.unshown:
        changes.update(_proposal_changes(group, old))
    before, after = _secret_trees(old), _secret_trees(group)
    for epoch in before.keys() - after.keys():
        changes.update(_prefixed(_epoch(b"R", epoch), dict.fromkeys(before[epoch].pieces())))
    for epoch, tree in after.items():
        if tree is not before.get(epoch):
            written = tree.changes() if epoch in before else tree.pieces()
            changes.update(_prefixed(_epoch(b"R", epoch), written))
    if group.past is not old.past:
        past = {each.epoch: each for each in old.past}
        for each in group.past:
            if each.epoch not in past:
                changes.update(_past(each))
        for epoch in past.keys() - {each.epoch for each in group.past}:
            changes.update(dict.fromkeys(_past_names(past[epoch])))
    if group.resumption_psks is not old.resumption_psks:
        for epoch in set(old.resumption_psks) - set(group.resumption_psks):
            changes[_epoch(b"Y", epoch)] = None
        for epoch in set(group.resumption_psks) - set(old.resumption_psks):
            changes[_epoch(b"Y", epoch)] = group.resumption_psks[epoch]
    return changes


def stored(group: M) -> M:
    """The same state, to go on with after its changes have been written: a large tree in less memory."""
    group = group.with_tree(group.tree.compact())
    secret_tree, past = group.secret_tree.stored(), tuple(map(_past_stored, group.past))
    if secret_tree is group.secret_tree and all(map(is_, past, group.past)):
        return group
    return replace(group, secret_tree=secret_tree, past=past)


def _past_stored(past: PastEpoch) -> PastEpoch:
    tree = past.secret_tree.stored()
    return past if tree is past.secret_tree else replace(past, secret_tree=tree)


def _secret_trees(group: MemberState[T]) -> dict[int, SecretTree]:
    return {group.epoch: group.secret_tree, **{past.epoch: past.secret_tree for past in group.past}}


def _frame(group: MemberState[T]) -> dict[bytes, bytes]:
    public = group.public
    record = EpochRecord(
        public.context, public.interim_transcript_hash, public.confirmation_tag, group.own_index, group.closed
    )
    return {b"E": record.encode(), b"S": group.secrets.encode(), _SIGNATURE_KEY: group.signature_key.encode()}


def _frame_changes(group: MemberState[T], old: MemberState[T]) -> Changes:
    """Another epoch has another context and other secrets, and mostly the same signature key."""
    frame = _frame(group)
    if group.epoch == old.epoch:
        return _differing(frame, _frame(old))
    if group.signature_key is old.signature_key:
        del frame[_SIGNATURE_KEY]
    return dict(frame)


def _proposal_changes(group: MemberState[T], old: MemberState[T]) -> Changes:
    """Most changes within an epoch add a proposal at the end: those that were there need not be looked at."""
    known = len(old.public.proposal_order)
    if group.epoch != old.epoch or group.public.proposal_order[:known] != old.public.proposal_order:
        return _differing(_proposals(group), _proposals(old))
    return _differing(_proposals(group, known), _proposals(old, known))


def _proposals(group: MemberState[T], first: int = 0) -> dict[bytes, bytes]:
    """The pieces of the proposals that wait, from a number on, and of our Updates."""
    found = {}
    prefix = _epoch(b"Q", group.epoch)
    for number in range(first, len(group.public.proposal_order)):
        sent = group.public.proposals[group.public.proposal_order[number]]
        if sent.content is not None:
            found[prefix + _NUMBER.pack(number)] = sent.content.encode()
    for reference, update in group.updates.items():
        record = UpdateRecord(update.leaf_key.encode(), update.signature_key.encode())
        found[_epoch(b"U", group.epoch) + reference] = record.encode()
    for reference in group.unshown:
        found[_epoch(b"N", group.epoch) + reference] = b""
    return found


def _past(past: PastEpoch) -> dict[bytes, bytes]:
    record = PastRecord(past.context, past.sender_data_secret, past.secret_tree.leaf_count, past.ended)
    values = [record.encode(), *(LeafRecord(leaf).encode() for leaf in past.leaves.values())]
    return dict(zip(_past_names(past), values, strict=True))


def _past_names(past: PastEpoch) -> list[bytes]:
    leaves = _epoch(b"L", past.epoch)
    return [_epoch(b"P", past.epoch), *(leaves + _NUMBER.pack(index) for index in past.leaves)]


def _differing(new: Mapping[bytes, bytes], old: Mapping[bytes, bytes]) -> Changes:
    changes: Changes = dict.fromkeys(old.keys() - new.keys())
    changes.update({name: value for name, value in new.items() if old.get(name) != value})
    return changes


# --- the way back ----------------------------------------------------------------------------


def restore(
    make: type[M],
    restore_tree: RestoreTree[T],
    found: Iterable[tuple[bytes, bytes]],
    parameters: Parameters | None = None,
) -> M:
    """The state whose pieces these are; its ratchets go on exactly where they were.

    :param restore_tree: makes the tree from its pieces
    :raises InvalidError: they make up no state
    """
    kinds: dict[bytes, dict[bytes, bytes]] = {letter: {} for letter in _LETTERS}
    for name, value in found:
        if name[:1] in kinds:
            kinds[name[:1]][name[1:]] = value
    try:
        record = EpochRecord.decode(kinds[b"E"][b""])
        secrets = EpochSecrets.decode(kinds[b"S"][b""])
        suite = CipherSuite.get(record.context.cipher_suite)
        signature_key = suite.import_signature_key(kinds[_SIGNATURE_KEY][b""])
    except KeyError as missing:
        raise InvalidError(f"the group's state lacks piece {missing}") from None
    tree = restore_tree(suite, kinds[b"T"], kinds[b"H"])
    epoch = record.context.epoch
    ratchets = _by_epoch(kinds[b"R"])
    own_index = LeafIndex(record.own_index)
    public = PublicState(record.context, tree, record.interim_transcript_hash, record.confirmation_tag)
    kept = _by_epoch(kinds[b"U"]).get(epoch, {})
    updates = {}
    for _, encoded in sorted(_by_epoch(kinds[b"Q"]).get(epoch, {}).items()):
        content = AuthenticatedContent.decode(encoded)
        reference = suite.proposal_ref(encoded)
        sent = SentProposal(content.content.content, content.content.sender, reference, content)  # type: ignore[arg-type]
        public = public.with_proposal(sent, None)
        if reference in kept and sent.sender == MemberSender(own_index):
            updates[reference] = _restore_update(suite, kept[reference])
    return make(
        public=public,
        secrets=secrets,
        secret_tree=SecretTree.restore(suite, tree.leaf_count, ratchets.get(epoch, {})),
        private=TreeKEMPrivate.restore(tree, own_index, kinds[b"K"]),
        signature_key=signature_key,
        parameters=parameters or Parameters(),
        updates=Map(updates),
        unshown=frozenset(each for each in _by_epoch(kinds[b"N"]).get(epoch, {}) if each in public.proposals),
        past=_restore_past(suite, kinds, ratchets),
        resumption_psks=Map({int.from_bytes(name, "big"): psk for name, psk in kinds[b"Y"].items()}),
        closed=record.closed,
    )


_LETTERS = (b"E", b"S", b"I", b"T", b"H", b"K", b"R", b"Q", b"U", b"N", b"P", b"L", b"Y")


def _by_epoch(found: Mapping[bytes, bytes]) -> dict[int, dict[bytes, bytes]]:
    epochs: dict[int, dict[bytes, bytes]] = {}
    for name, value in found.items():
        epochs.setdefault(int.from_bytes(name[:8], "big"), {})[name[8:]] = value
    return epochs


def _restore_past(
    suite: CipherSuite, kinds: Mapping[bytes, Mapping[bytes, bytes]], ratchets: Mapping[int, dict[bytes, bytes]]
) -> tuple[PastEpoch, ...]:
    leaves = _by_epoch(kinds[b"L"])
    past = []
    for name, value in sorted(kinds[b"P"].items()):
        epoch = int.from_bytes(name, "big")
        record = PastRecord.decode(value)
        changed = {
            LeafIndex(int.from_bytes(index, "big")): LeafRecord.decode(leaf).leaf
            for index, leaf in leaves.get(epoch, {}).items()
        }
        tree = SecretTree.restore(suite, record.leaf_count, ratchets.get(epoch, {}))
        past.append(PastEpoch(epoch, record.context, record.sender_data_secret, tree, Map(changed), record.ended))
    return tuple(past)


def _restore_update(suite: CipherSuite, value: bytes) -> OwnUpdate:
    record = UpdateRecord.decode(value)
    return OwnUpdate(suite.import_hpke_key(record.leaf_key), suite.import_signature_key(record.signature_key))


def resumption_psk(piece: Callable[[bytes], bytes | None], epoch: int) -> tuple[int, bytes | None]:
    """RFC 9420 8.6: the resumption PSK of an epoch, without restoring the state.

    :param piece: gives a piece by its name, None if there is none
    :returns: the present epoch; the PSK, None if it is not kept, or not known yet
    :raises InvalidError: the pieces make up no state
    """
    frame, secrets = piece(b"E"), piece(b"S")
    if frame is None or secrets is None:
        raise InvalidError("the group's state lacks its present epoch")
    present = EpochRecord.decode(frame).context.epoch
    if epoch == present:
        return present, EpochSecrets.decode(secrets).resumption_psk
    return present, piece(_epoch(b"Y", epoch))


# --- a Commit that waits ---------------------------------------------------------------------


def staged_pieces(staged: StagedCommit, base: GroupState | None) -> dict[bytes, bytes]:
    """A Commit of ours that waits for its turn, as what it changes.

    :param base: the present state; None when we join by an external Commit
    """
    assert staged.next is not None
    changes: Mapping[bytes, bytes | None] = pieces(staged.next) if base is None else changes_since(staged.next, base)
    waiting = {name: b"\x00" if value is None else b"\x01" + value for name, value in changes.items()}
    waiting[_COMMIT] = StagedRecord(staged.base_tag, staged.effects).encode()
    return waiting


def restore_staged(
    make: type[G], waiting: Mapping[bytes, bytes], base: G | None, parameters: Parameters | None = None
) -> StagedCommit:
    """The inverse of :func:`staged_pieces`.

    :param base: the present state, of the same epoch as when the Commit was made
    :raises InvalidError: they make up no Commit for this state
    """
    if _COMMIT not in waiting:
        raise InvalidError("a waiting Commit without its effects")
    record = StagedRecord.decode(waiting[_COMMIT])
    if base is not None and base.public.confirmation_tag != record.base_tag:
        raise InvalidError("a waiting Commit for another epoch")
    after = {} if base is None else pieces(base)
    for name, value in waiting.items():
        if name == _COMMIT:
            continue
        if value[:1] == b"\x00":
            after.pop(name, None)
        else:
            after[name] = value[1:]
    state = restore(make, RatchetTree.restore, after.items(), base.parameters if base is not None else parameters)
    return StagedCommit(record.effects, state.group_id, state.epoch - 1, record.base_tag, True, state)
