"""The secret tree: one key for each message of each sender (RFC 9420 9).

A :class:`SecretTree` is a value.  Taking a key gives a new tree in which that key is gone (9.2), and
the caller keeps the new tree only if the message turned out to be genuine; until then the old one stands, as if nothing
had happened.

Inside, a tree is a persistent map from keys to octets, and these are exactly the pieces in which
a store keeps it::

    "n" + node index (4 octets)                                 secret of a node of the tree
    "r" + leaf index (4) + ratchet (1)                          a ratchet: next generation (8), its secret
    "s" + leaf index (4) + ratchet (1) + generation (4)         a skipped key: AEAD key, nonce
    "m" + leaf index (4) + mark (16)                            a content that was protected or opened; empty
    "m"                                                         marks are kept, from the epoch's beginning; empty

Numbers are big-endian; the ratchet octet is 0 for handshake, 1 for application messages.  A ratchet is there once its
leaf has been used.  The node secrets that are there are the lowest ones that still
cover all other leaves: a parent's secret is deleted when its children's are derived.

To the first use of a leaf, that derives a path; from then on, taking the next generation
changes one piece.  A message that is ahead of its ratchet leaves skipped keys behind.  They are kept for
a window of generations, not for a time or a total: a key goes when its sender has moved on by
more than the window.  So no more keys per ratchet are ever kept than the window is long, no order among them has to
be remembered, and old keys do not stay forever in a quiet group.

Beside the keys a tree remembers which signed contents they have carried, by *marks*, for as long as it has keys.  A
signature does not cover the generation (RFC 9420 6.1), so any member can encrypt once more, under a generation that
its sender has not used yet, what that sender has signed.  The mark shows that (:meth:`SecretTree.has_carried`): others
refuse the repetition, and so keep the key for the genuine message; the sender does not take it for a proof that another
copy of its state has sent it.  At most :data:`MARKED` contents of a ratchet are marked, so that no member makes others
store more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct as Layout
from typing import NamedTuple

from immutables import Map

from ...errors import InvalidError, Premature, Replayed, UsageError
from ..crypto.cipher_suite import CipherSuite
from ..tree.tree_math import LeafIndex, NodeIndex, direct_path, node_of, root, sibling

__all__ = ["MARKED", "MessageKey", "RatchetKind", "RatchetLimits", "SecretTree"]

MARKED = 4096
"""Generations of a ratchet whose contents are remembered.  Keys of a leaf should be renewed long before."""

_NODE = Layout(">cI")
_RATCHET = Layout(">cIB")
_SKIPPED = Layout(">cIBI")
_MARK = Layout(">cI16s")
_MARKS = b"m"
_GENERATION = Layout(">Q")  # wider than on the wire: it must hold the number after the last one
_GENERATIONS = 2**32


class RatchetKind(IntEnum):
    """Each leaf has two ratchets."""

    HANDSHAKE = 0
    APPLICATION = 1


_LABELS = {RatchetKind.HANDSHAKE: "handshake", RatchetKind.APPLICATION: "application"}


@dataclass(frozen=True, slots=True)
class RatchetLimits:
    """How far out of order messages may arrive (RFC 9420 15.3), in generations.

    :ivar forward: how far ahead of the next expected message one may be
    :ivar window: how far behind the newest message a skipped one may be
    """

    forward: int = 1000
    window: int = 1000


_DEFAULT_LIMITS = RatchetLimits()


class MessageKey(NamedTuple):
    """AEAD key and nonce of one message, for one use."""

    generation: int
    key: bytes
    nonce: bytes

    def __repr__(self) -> str:
        return f"<MessageKey of generation {self.generation}>"


class SecretTree:
    """All message keys of an epoch that have not been used."""

    __slots__ = ("_changes", "_leaf_count", "_pieces", "_suite")

    def __init__(
        self, suite: CipherSuite, leaf_count: int, pieces: Map[bytes, bytes], changes: Map[bytes, bytes | None]
    ) -> None:
        self._suite = suite
        self._leaf_count = leaf_count
        self._pieces = pieces
        self._changes = changes

    @classmethod
    def create(cls, suite: CipherSuite, encryption_secret: bytes, leaf_count: int) -> SecretTree:
        """A new epoch's tree.  The caller forgets the encryption secret.

        :param leaf_count: leaves of the ratchet tree, a power of two
        """
        pieces = Map({_NODE.pack(b"n", root(leaf_count)): encryption_secret, _MARKS: b""})
        return cls(suite, leaf_count, pieces, pieces)

    @classmethod
    def restore(cls, suite: CipherSuite, leaf_count: int, pieces: Mapping[bytes, bytes]) -> SecretTree:
        """The tree whose :meth:`pieces` these are, continuing exactly where it was."""
        return cls(suite, leaf_count, Map(pieces), Map())

    def __repr__(self) -> str:
        return f"<SecretTree of {self._leaf_count} leaves>"

    @property
    def leaf_count(self) -> int:
        """Leaves of the ratchet tree that it belongs to."""
        return self._leaf_count

    # --- for the store ---

    def pieces(self) -> dict[bytes, bytes]:
        """All of it."""
        return dict(self._pieces)

    def changes(self) -> dict[bytes, bytes | None]:
        """The pieces written, or deleted (None), since the tree was created, restored or :meth:`stored`."""
        return dict(self._changes)

    def stored(self) -> SecretTree:
        """The same tree, to be used after its :meth:`changes` have been written."""
        return SecretTree(self._suite, self._leaf_count, self._pieces, Map()) if self._changes else self

    # --- keys ---

    def used(self, leaf: int, kind: RatchetKind) -> int:
        """How many keys of a ratchet have been taken so far, skipped ones included."""
        octets = self._pieces.get(_RATCHET.pack(b"r", leaf, kind))
        generation: int = 0 if octets is None else _GENERATION.unpack_from(octets)[0]
        return generation

    def next(self, leaf: int, kind: RatchetKind) -> tuple[MessageKey, SecretTree]:
        """The key for sending a message, and the tree without it.

        :param leaf: our own
        :raises UsageError: no such leaf, or all of its 2**32 generations are used
        """
        if not 0 <= leaf < self._leaf_count:
            raise UsageError(f"no leaf {leaf} in a tree of {self._leaf_count}")
        edit = _Edit(self)
        name, generation, secret = edit.ratchet(leaf, kind)
        if generation >= _GENERATIONS:
            raise UsageError("this epoch's message keys are used up")
        message_key, secret = self._step(secret, generation)
        edit.put(name, _GENERATION.pack(generation + 1) + secret)
        return message_key, edit.finish()

    def at(
        self, leaf: int, kind: RatchetKind, generation: int, limits: RatchetLimits = _DEFAULT_LIMITS
    ) -> tuple[MessageKey, SecretTree]:
        """The key for opening a message, and the tree without it.

        :param leaf: the sender's
        :raises Replayed: the key has been used, or has left the window (9.2)
        :raises InvalidError: no such leaf
        :raises Premature: a generation too far ahead (15.3)
        """
        if not 0 <= leaf < self._leaf_count:
            raise InvalidError(f"no leaf {leaf} in a tree of {self._leaf_count}", "RFC 9420 6.3.2")
        edit = _Edit(self)
        name, due, secret = edit.ratchet(leaf, kind)
        if generation < due:
            # RFC 9420 9.2: a consumed key is gone, so this is a skipped one or a replay.
            skipped = _SKIPPED.pack(b"s", leaf, kind, generation)
            octets = self._pieces.get(skipped)
            if octets is None:
                raise Replayed(f"the key of generation {generation} is gone", "RFC 9420 9.2")
            edit.delete(skipped)
            size = self._suite.aead_key_length
            return MessageKey(generation, octets[:size], octets[size:]), edit.finish()
        if generation - due > limits.forward:
            # RFC 9420 15.3: a sender must not make us derive billions of keys.
            raise Premature(f"generation {generation} is too far ahead of {due}", "RFC 9420 15.3")

        keep_from = max(0, generation - limits.window)
        for old in range(max(0, due - 1 - limits.window), min(due, keep_from)):
            edit.delete(_SKIPPED.pack(b"s", leaf, kind, old))
        for ahead in range(due, generation):
            skipped_key, secret = self._step(secret, ahead)
            if ahead >= keep_from:
                edit.put(_SKIPPED.pack(b"s", leaf, kind, ahead), skipped_key.key + skipped_key.nonce)
        message_key, secret = self._step(secret, generation)
        edit.put(name, _GENERATION.pack(generation + 1) + secret)
        return message_key, edit.finish()

    def due(self, leaf: int, kind: RatchetKind) -> int:
        """The lowest generation of which nothing has been seen, nor of any after it."""
        octets = self._pieces.get(_RATCHET.pack(b"r", leaf, kind))
        return 0 if octets is None else int(_GENERATION.unpack_from(octets)[0])

    # --- contents ---

    def carrying(self, leaf: int, kind: RatchetKind, mark: bytes) -> SecretTree:
        """The tree after a content has been protected or opened with a key of it.

        :param mark: of the content, 16 octets
        """
        if self.used(leaf, kind) > MARKED:
            return self
        name = _MARK.pack(_MARKS, leaf, mark)
        return SecretTree(self._suite, self._leaf_count, self._pieces.set(name, b""), self._changes.set(name, b""))

    def has_carried(self, leaf: int, mark: bytes) -> bool:
        """Whether this content is remembered."""
        return _MARK.pack(_MARKS, leaf, mark) in self._pieces

    def remembers_all(self, leaf: int, kind: RatchetKind) -> bool:
        """Whether each content of a ratchet is remembered, so that one that is not has not been carried.

        Not in a tree that was begun by a version that kept no marks, nor after more than :data:`MARKED` contents.
        """
        return _MARKS in self._pieces and self.used(leaf, kind) <= MARKED

    def _step(self, secret: bytes, generation: int) -> tuple[MessageKey, bytes]:
        """RFC 9420 9.1: the key of a generation, and the next one's ratchet secret."""
        suite = self._suite
        derive = suite.derive_tree_secret
        key = derive(secret, "key", generation, suite.aead_key_length)
        nonce = derive(secret, "nonce", generation, suite.nonce_length)
        return MessageKey(generation, key, nonce), derive(secret, "secret", generation, suite.hash_length)


class _Edit:
    """Changes to a tree, becoming another tree."""

    __slots__ = ("_changes", "_pieces", "_tree")

    def __init__(self, tree: SecretTree) -> None:
        self._tree = tree
        self._pieces = tree._pieces.mutate()
        self._changes = tree._changes.mutate()

    def put(self, name: bytes, octets: bytes) -> None:
        self._pieces[name] = octets
        self._changes[name] = octets

    def delete(self, name: bytes) -> None:
        if name in self._pieces:
            del self._pieces[name]
            self._changes[name] = None

    def finish(self) -> SecretTree:
        return SecretTree(self._tree._suite, self._tree._leaf_count, self._pieces.finish(), self._changes.finish())

    def ratchet(self, leaf: int, kind: RatchetKind) -> tuple[bytes, int, bytes]:
        """A ratchet's name, next generation and secret; derived from the tree if the leaf has not been used."""
        name = _RATCHET.pack(b"r", leaf, kind)
        octets = self._pieces.get(name)
        if octets is None:
            self._open(LeafIndex(leaf))
            octets = self._pieces[name]
        return name, _GENERATION.unpack_from(octets)[0], octets[8:]

    def _open(self, leaf: LeafIndex) -> None:
        """Derive a leaf's two ratchets, and on the way the secrets of the nodes beside its path."""
        suite = self._tree._suite
        length = suite.hash_length
        leaf_count = self._tree._leaf_count
        below: list[NodeIndex] = []
        for node in (node_of(leaf), *direct_path(node_of(leaf), leaf_count)):
            name = _NODE.pack(b"n", node)
            if name in self._pieces:
                break
            below.append(node)
        secret = self._pieces[name]
        self.delete(name)  # RFC 9420 9.2: consumed as soon as the children are derived
        for child in reversed(below):
            beside = sibling(child, leaf_count)
            left = suite.expand_with_label(secret, "tree", b"left", length)
            right = suite.expand_with_label(secret, "tree", b"right", length)
            secret, other = (left, right) if child < beside else (right, left)
            self.put(_NODE.pack(b"n", beside), other)
        for kind, label in _LABELS.items():
            self.put(
                _RATCHET.pack(b"r", leaf, kind),
                _GENERATION.pack(0) + suite.expand_with_label(secret, label, b"", length),
            )
