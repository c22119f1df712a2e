"""A reader for ``ratchet_tree`` (RFC 9420 7.8) that shares no code with any implementation under test.

The scenarios compare trees byte for byte; this reader only tells them who sits where, which leaves are blank,
and which parents list unmerged leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

from .peers import Extension, Member


class Reader:
    """Reads TLS presentation language from bytes, with the variable-size lengths of RFC 9420 2.1.2."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        assert self.at + count <= len(self.data), "truncated"
        self.at += count
        return self.data[self.at - count : self.at]

    def uint(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self) -> bytes:
        first = self.uint(1)
        size = first >> 6
        assert size < 3, "not a length"
        return self.take(int.from_bytes(bytes([first & 0x3F]) + self.take((1 << size) - 1)))

    def extensions(self) -> tuple[Extension, ...]:
        body = Reader(self.vector())
        found = []
        while not body.done:
            found.append(Extension(body.uint(2), body.vector()))
        return tuple(found)

    @property
    def done(self) -> bool:
        return self.at == len(self.data)


@dataclass(frozen=True, slots=True)
class Tree:
    """``blanks``: blank leaves left of the last member; ``unmerged``: per parent node that has any, its list."""

    members: tuple[Member, ...]
    blanks: tuple[int, ...]
    unmerged: dict[int, tuple[int, ...]]

    def index_of(self, identity: bytes) -> int:
        return next(member.index for member in self.members if member.identity == identity)

    def identity_of(self, index: int) -> bytes:
        return next(member.identity for member in self.members if member.index == index)


def read_tree(data: bytes) -> Tree:
    """Read a whole ``optional<Node> ratchet_tree<V>`` whose leaves have Basic credentials."""
    outer = Reader(data)
    nodes = Reader(outer.vector())
    assert outer.done, "bytes after the tree"
    members: list[Member] = []
    blanks: list[int] = []
    unmerged: dict[int, tuple[int, ...]] = {}
    position = 0
    while not nodes.done:
        if not nodes.uint(1):
            if position % 2 == 0:
                blanks.append(position // 2)
        elif nodes.uint(1) == 1:
            members.append(Member(position // 2, _read_leaf(nodes)))
        else:
            nodes.vector()  # encryption_key
            nodes.vector()  # parent_hash
            listed = Reader(nodes.vector())
            if not listed.done:
                unmerged[position] = tuple(listed.uint(4) for _ in range(len(listed.data) // 4))
        position += 1
    return Tree(tuple(members), tuple(blanks), unmerged)


def _read_leaf(nodes: Reader) -> bytes:
    nodes.vector()  # encryption_key
    nodes.vector()  # signature_key
    assert nodes.uint(2) == 1, "not a Basic credential"
    identity = nodes.vector()
    for _ in range(5):  # capabilities: versions, cipher suites, extensions, proposals, credentials
        nodes.vector()
    source = nodes.uint(1)
    if source == 1:  # key_package: lifetime
        nodes.take(16)
    elif source == 3:  # commit: parent_hash
        nodes.vector()
    nodes.vector()  # extensions
    nodes.vector()  # signature
    return identity
