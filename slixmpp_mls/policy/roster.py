"""Indexes the leaves of a group by account and by client, so that the ratchet tree need not be scanned.

A :class:`Roster` is an immutable value.  It is built once from the tree and follows it by the
:class:`~slixmpp_mls.mls.group.commit_effects.Effects` of each Commit.  The cost of an update depends on the number of
changes, not on the number of members.  Its structure enforces the two rules of identity: a client has at most one leaf,
and a leaf belongs to the same client as long as it exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from immutables import Map, MapMutation

from ..errors import PolicyViolation, UsageError
from ..identity import ClientIdentity
from ..mls.group.commit_effects import Effects
from ..mls.structures.framing import MemberSender
from ..mls.structures.leaf_node import LeafNode
from .proofs import is_newcomer

__all__ = ["Roster"]


class Roster:
    """The clients in a group, by leaf index, by identity and by account."""

    __slots__ = ("_accounts", "_clients", "_leaves", "_newcomers")

    def __init__(
        self,
        clients: Map[int, ClientIdentity],
        leaves: Map[ClientIdentity, int],
        accounts: Map[str, Map[int, str]],
        newcomers: Map[int, None],
    ) -> None:
        """Use :meth:`of` instead."""
        self._clients = clients
        self._leaves = leaves
        self._accounts = accounts  # account -> leaf -> device
        self._newcomers = newcomers

    @classmethod
    def of(cls, members: Iterable[tuple[int, LeafNode]]) -> Roster:
        """Build the roster from all leaves of a group, as :meth:`RatchetTree.members` returns them.

        :raises InvalidError: a leaf's credential names no client
        :raises PolicyViolation: two leaves are the same client
        """
        return cls.of_clients((index, ClientIdentity.from_leaf(leaf), is_newcomer(leaf)) for index, leaf in members)

    @classmethod
    def of_clients(cls, clients: Iterable[tuple[int, ClientIdentity, bool]]) -> Roster:
        """Build the roster from the leaf index of each client, and whether it is a newcomer.

        :raises PolicyViolation: two leaves are the same client
        :raises UsageError: two clients have the same leaf
        """
        draft = _Draft(cls(Map(), Map(), Map(), Map()))
        for index, client, newcomer in clients:
            draft.add(index, client, newcomer)
        return draft.finish()

    def __repr__(self) -> str:
        return f"<Roster: {len(self._clients)} clients of {len(self._accounts)} accounts>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Roster) and self._clients == other._clients and self._newcomers == other._newcomers

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        """The number of clients in the group."""
        return len(self._clients)

    def at(self, index: int) -> ClientIdentity:
        """The client at a leaf.

        :raises UsageError: there is none, so this is the roster of another epoch
        """
        client = self._clients.get(index)
        if client is None:
            raise UsageError(f"the roster has nobody at leaf {index}")
        return client

    def leaf_of(self, client: ClientIdentity) -> int | None:
        """The leaf index of a client; None if it has no leaf."""
        return self._leaves.get(client)

    def has(self, account: str) -> bool:
        """Whether the account has a client in the group."""
        return account in self._accounts

    def is_newcomer(self, index: int) -> bool:
        """Whether a leaf joined without proof and has not been confirmed by an Add; see :mod:`.proofs`."""
        return index in self._newcomers

    def counts(self, index: int) -> bool:
        """Whether the client at a leaf has the rights of a member.

        A newcomer has them only while all members are newcomers.  Otherwise a group would be locked when all other
        members leave.
        """
        return index not in self._newcomers or len(self._newcomers) == len(self._clients)

    def has_say(self, account: str) -> bool:
        """Whether the account has a client in the group with the rights of a member."""
        return any(map(self.counts, self._accounts.get(account, ())))

    def leaves_of(self, account: str) -> tuple[int, ...]:
        """The leaves of an account's clients, in ascending order."""
        return tuple(sorted(self._accounts.get(account, ())))

    def clients_of(self, account: str) -> int:
        """The number of an account's clients in the group."""
        return len(self._accounts.get(account, ()))

    def clients(self) -> Iterator[ClientIdentity]:
        """All clients, in no particular order."""
        return iter(self._leaves)

    def accounts(self) -> Iterator[str]:
        """All accounts that have a client in the group, each once, in no particular order."""
        return iter(self._accounts)

    def after(self, effects: Effects) -> Roster:
        """The roster after a Commit.  This roster does not change.

        :raises InvalidError: a new credential names no client
        :raises PolicyViolation: a client would have two leaves, or a leaf would become another client's
        :raises UsageError: `effects` does not belong to this roster's epoch
        """
        draft = _Draft(self)
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

    def __init__(self, roster: Roster) -> None:
        self._clients: MapMutation[int, ClientIdentity] = roster._clients.mutate()
        self._leaves: MapMutation[ClientIdentity, int] = roster._leaves.mutate()
        self._accounts: MapMutation[str, Map[int, str]] = roster._accounts.mutate()
        self._newcomers: MapMutation[int, None] = roster._newcomers.mutate()

    def add(self, index: int, client: ClientIdentity, newcomer: bool, proposer: ClientIdentity | None = None) -> None:
        if client in self._leaves:
            raise PolicyViolation("one-leaf", f"{client} would have two leaves", str(proposer) if proposer else None)
        if index in self._clients:
            raise UsageError(f"the roster has somebody at leaf {index} already")
        self._clients[index] = client
        self._leaves[client] = index
        if newcomer:
            self._newcomers[index] = None
        self._accounts[client.account] = self._accounts.get(client.account, Map()).set(index, client.device)

    def remove(self, index: int, client: ClientIdentity) -> None:
        del self._clients[index]
        self._newcomers.pop(index, None)
        del self._leaves[client]
        left = self._accounts[client.account].delete(index)
        if left:
            self._accounts[client.account] = left
        else:
            del self._accounts[client.account]

    def finish(self) -> Roster:
        return Roster(self._clients.finish(), self._leaves.finish(), self._accounts.finish(), self._newcomers.finish())
