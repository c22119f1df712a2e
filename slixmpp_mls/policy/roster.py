"""Indexes the leaves of a group by account and by client, so that the ratchet tree need not be scanned.

A :class:`Roster` is an immutable value.  It is built once from the tree and follows it by the
:class:`~slixmpp_mls.mls.group.commit_effects.Effects` of each Commit.  The cost of an update depends on the number of
changes, not on the number of members.  The roster of a group that comes from the store is built when it is first asked,
so that a client with many rooms starts soon (:meth:`Roster.later`).

Its structure enforces the two rules of identity: a client has at most one leaf, and a leaf belongs to the same client
as long as it exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from immutables import Map, MapMutation

from ..errors import PolicyViolation, UsageError
from ..identity import ClientIdentity, name_in
from ..mls.group.commit_effects import Effects
from ..mls.layered_map import LayeredMap
from ..mls.structures.framing import MemberSender
from ..mls.structures.leaf_node import LeafNode
from ..mls.structures.leaf_outline import LeafOutline
from ..stanza.code_points import NEWCOMER
from .proofs import is_newcomer

__all__ = ["Roster"]


class _Maps(NamedTuple):
    """The contents of a roster.  A client is a string in it, which needs a third of the memory of an identity."""

    clients: LayeredMap[int, str]
    leaves: LayeredMap[str, int]
    accounts: LayeredMap[str, tuple[int, ...]]
    newcomers: Map[int, None]

    @classmethod
    def of(cls, clients: Iterable[tuple[int, str, bool]]) -> _Maps:
        """Of the leaf index of each client, its string, and whether it is a newcomer."""
        at: dict[int, str] = {}
        leaves: dict[str, int] = {}
        accounts: dict[str, tuple[int, ...]] = {}
        others: dict[str, list[int]] = {}  # leaves of accounts that have several
        newcomers: dict[int, None] = {}
        for index, client, newcomer in clients:
            if leaves.setdefault(client, index) != index:
                raise PolicyViolation("one-leaf", f"{client} would have two leaves")
            if at.setdefault(index, client) != client:
                raise UsageError(f"the roster has somebody at leaf {index} already")
            if newcomer:
                newcomers[index] = None
            account = client.partition("/")[0]
            known = accounts.setdefault(account, (index,))
            if known[0] != index:
                others.setdefault(account, [*known]).append(index)
        for account, several in others.items():
            accounts[account] = tuple(sorted(several))
        return cls(LayeredMap(at), LayeredMap(leaves), LayeredMap(accounts), Map(newcomers))


class Roster:
    """The clients in a group, by leaf index, by identity and by account."""

    __slots__ = ("_count", "_made", "_source")

    def __init__(self, count: int, made: _Maps | None, source: Callable[[], _Maps] | None = None) -> None:
        """Use :meth:`of` or :meth:`later` instead."""
        self._count = count
        self._made = made
        self._source = source

    @classmethod
    def of(cls, members: Iterable[tuple[int, LeafNode]]) -> Roster:
        """Build the roster from all leaves of a group, as :meth:`RatchetTree.members` returns them.

        :raises InvalidError: a leaf's credential names no client
        :raises PolicyViolation: two leaves are the same client
        """
        return cls.of_clients((index, ClientIdentity.from_leaf(leaf), is_newcomer(leaf)) for index, leaf in members)

    @classmethod
    def later(cls, outlines: Callable[[], Iterable[tuple[int, LeafOutline]]], count: int) -> Roster:
        """Build the roster of a group that was accepted before, when it is first asked for more than its length.

        :param outlines: all leaves of a group, as :meth:`RatchetTree.outlines` returns them
        :param count: how many they are
        """

        def maps() -> _Maps:
            return _Maps.of((at, name_in(leaf.credential), leaf.has_extension(NEWCOMER)) for at, leaf in outlines())

        return cls(count, None, maps)

    @classmethod
    def of_outlines(cls, outlines: Iterable[tuple[int, LeafOutline]]) -> Roster:
        """As :meth:`of`, from what :meth:`RatchetTree.outlines` returns: faster for a large tree.

        :raises InvalidError: a leaf's credential names no client
        :raises PolicyViolation: two leaves are the same client
        """
        return cls.of_clients(
            (index, ClientIdentity.from_encoded(leaf.credential), leaf.has_extension(NEWCOMER))
            for index, leaf in outlines
        )

    @classmethod
    def of_clients(cls, clients: Iterable[tuple[int, ClientIdentity, bool]]) -> Roster:
        """Build the roster from the leaf index of each client, and whether it is a newcomer.

        :raises PolicyViolation: two leaves are the same client
        :raises UsageError: two clients have the same leaf
        """
        maps = _Maps.of((index, str(client), newcomer) for index, client, newcomer in clients)
        return cls(len(maps.clients), maps)

    @property
    def _maps(self) -> _Maps:
        if self._made is None:
            assert self._source is not None
            self._made, self._source = self._source(), None
        return self._made

    def __repr__(self) -> str:
        if self._made is None:
            return f"<Roster: {self._count} clients>"
        return f"<Roster: {len(self._made.clients)} clients of {len(self._made.accounts)} accounts>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Roster):
            return False
        mine, others = self._maps, other._maps
        return mine.clients == others.clients and mine.newcomers == others.newcomers

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        """The number of clients in the group."""
        return self._count

    def at(self, index: int) -> ClientIdentity:
        """The client at a leaf.

        :raises UsageError: there is none, so this is the roster of another epoch
        """
        client = self._maps.clients.get(index)
        if client is None:
            raise UsageError(f"the roster has nobody at leaf {index}")
        return ClientIdentity.from_name(client)

    def leaf_of(self, client: ClientIdentity) -> int | None:
        """The leaf index of a client; None if it has no leaf."""
        return self._maps.leaves.get(str(client))

    def has(self, account: str) -> bool:
        """Whether the account has a client in the group."""
        return account in self._maps.accounts

    def is_newcomer(self, index: int) -> bool:
        """Whether a leaf joined without proof and has not been confirmed by an Add; see :mod:`.proofs`."""
        return index in self._maps.newcomers

    def counts(self, index: int) -> bool:
        """Whether the client at a leaf has the rights of a member.

        A newcomer has them only while all members are newcomers.  Otherwise a group would be locked when all other
        members leave.
        """
        maps = self._maps
        return index not in maps.newcomers or len(maps.newcomers) == len(maps.clients)

    def has_say(self, account: str) -> bool:
        """Whether the account has a client in the group with the rights of a member."""
        return any(map(self.counts, self._maps.accounts.get(account, ())))

    def leaves(self) -> Iterator[int]:
        """The leaves of all clients, in no particular order."""
        return iter(self._maps.clients)

    def leaves_of(self, account: str) -> tuple[int, ...]:
        """The leaves of an account's clients, in ascending order."""
        return self._maps.accounts.get(account, ())

    def clients_of(self, account: str) -> int:
        """The number of an account's clients in the group."""
        return len(self._maps.accounts.get(account, ()))

    def clients(self) -> Iterator[ClientIdentity]:
        """All clients, in no particular order."""
        return map(ClientIdentity.from_name, self._maps.leaves)

    def accounts(self) -> Iterator[str]:
        """All accounts that have a client in the group, each once, in no particular order."""
        return iter(self._maps.accounts)

    def after(self, effects: Effects) -> Roster:
        """The roster after a Commit.  This roster does not change.

        :raises InvalidError: a new credential names no client
        :raises PolicyViolation: a client would have two leaves, or a leaf would become another client's
        :raises UsageError: `effects` does not belong to this roster's epoch
        """
        draft = _Draft(self._maps)
        for change in effects.removed:
            draft.remove(change.index, self.at(change.index))
        for change in effects.updated:
            client = self.at(change.index)
            assert change.after is not None
            if (change.before is None or change.before.credential != change.after.credential) and (
                ClientIdentity.from_leaf(change.after) != client
            ):
                raise PolicyViolation("same-client", f"leaf {change.index} would become another client's", str(client))
        for change in effects.added:  # last, because an Add may use a leaf that a Remove has blanked
            assert change.after is not None
            client = ClientIdentity.from_leaf(change.after)
            sender = change.proposer
            proposer = self.at(sender.leaf_index) if isinstance(sender, MemberSender) else client
            draft.add(change.index, client, is_newcomer(change.after), proposer)
        return draft.finish()


class _Draft:
    """A mutable roster, from which the next one is built."""

    def __init__(self, maps: _Maps) -> None:
        self._clients = maps.clients.mutate()
        self._leaves = maps.leaves.mutate()
        self._newcomers: MapMutation[int, None] = maps.newcomers.mutate()
        self._accounts = maps.accounts
        self._changed: dict[str, set[int]] = {}  # leaves of the accounts with a change

    def _leaves_of(self, account: str) -> set[int]:
        leaves = self._changed.get(account)
        if leaves is None:
            leaves = self._changed[account] = set(self._accounts.get(account, ()))
        return leaves

    def add(self, index: int, client: ClientIdentity, newcomer: bool, proposer: ClientIdentity | None = None) -> None:
        name = str(client)
        if name in self._leaves:
            raise PolicyViolation("one-leaf", f"{client} would have two leaves", str(proposer) if proposer else None)
        if index in self._clients:
            raise UsageError(f"the roster has somebody at leaf {index} already")
        self._clients[index] = name
        self._leaves[name] = index
        if newcomer:
            self._newcomers[index] = None
        self._leaves_of(client.account).add(index)

    def remove(self, index: int, client: ClientIdentity) -> None:
        del self._clients[index]
        self._newcomers.pop(index, None)
        del self._leaves[str(client)]
        self._leaves_of(client.account).remove(index)

    def finish(self) -> Roster:
        accounts = self._accounts.mutate()
        for account, leaves in self._changed.items():
            if leaves:
                accounts[account] = tuple(sorted(leaves))
            elif account in accounts:
                del accounts[account]
        maps = _Maps(self._clients.finish(), self._leaves.finish(), accounts.finish(), self._newcomers.finish())
        return Roster(len(maps.clients), maps)
