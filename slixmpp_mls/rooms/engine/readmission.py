"""Adds a client afresh that could not read its Welcome.

The stanza with a Welcome may be missing from the archive when the invited client comes to read it.  The client is
then in the group for everybody but itself.  It asks to be added (:mod:`.rejoin`), without a proof of return: it does
not know which of its KeyPackages was used, so it does not know its leaf's return key.  If nothing else is in the
archive, it does not know the epoch either.

Such a request proves nothing, and nothing is believed because of it.  It is the occasion to look into the account's
directory once more.  A member that may add and remove replaces the leaf by a KeyPackage from there if all of this
holds:

- the room says that the request is of the client's own account;
- the leaf is still the one of the KeyPackage with which the client was added: it has never renewed its keys;
- the leaf in the request and the KeyPackage from the directory have the signature key of the leaf in the tree, so
  that no other key comes in;
- the Authentication Service vouches for the KeyPackage, as at any Add.

At most :data:`~slixmpp_mls.client.storage.rejoin_limit.LIMIT` times in an hour for each account.
"""

from __future__ import annotations

import logging

from ...client import Step
from ...client.group.processing import asking_leaf
from ...client.storage.rejoin_limit import LIMIT
from ...delivery import RoomStanza
from ...errors import InvalidError, MLSError, PeerError
from ...identity import ClientIdentity
from ...key_packages.selection import find_candidates
from ...mls.parameters import HOUR
from ...mls.structures.leaf_node import KeyPackageSource, LeafNode
from ...mls.structures.proposals import Add, AnyProposal, Remove
from ...mls.tree.tree_math import LeafIndex
from ...stanza.consistency import check as check_consistency
from ...stanza.elements import Proposal
from .committer import Committer
from .parts import RoomParts

__all__ = ["Readmission"]

log = logging.getLogger(__name__)


class Readmission:
    """Answers requests of clients without a Welcome in one room; see the module."""

    def __init__(self, parts: RoomParts, committer: Committer) -> None:
        self._parts = parts
        self._group = parts.group
        self._committer = committer
        self._begun: dict[str, list[int]] = {}  # by account: seconds since the Unix epoch
        self._under_way: set[ClientIdentity] = set()

    def stanza_read(self, stanza: RoomStanza, step: Step) -> None:
        """Look for a request in a stanza that has been read."""
        for payload in step.incoming.payloads:
            if self._group.is_member and isinstance(payload, Proposal) and payload.group == self._group.mls.group_id:
                leaf = _asks(payload)
                if leaf is not None:
                    self._consider(stanza, leaf)

    def _consider(self, stanza: RoomStanza, asking: LeafNode) -> None:
        try:
            client = ClientIdentity.from_leaf(asking)
        except InvalidError:
            return
        if stanza.real_jid is None or stanza.real_jid.bare != client.account or client in self._under_way:
            return
        present = self._leaf(client)
        if present is None or present.signature_key != asking.signature_key or not self._may():
            return
        now = self._parts.context.now
        begun = [time for time in self._begun.get(client.account, []) if abs(now - time) < HOUR]
        if len(begun) >= LIMIT:
            log.info("%s: %s has asked too often", self._parts.room, client.account)
            return
        self._begun[client.account] = [*begun, now]
        self._under_way.add(client)
        self._parts.spawn(self._readmit(client, present), f"adding {client} afresh")

    def _leaf(self, client: ClientIdentity) -> LeafNode | None:
        """The client's leaf, if it is another's, and still that of the KeyPackage with which it was added."""
        group = self._group.mls
        index = self._group.roster.leaf_of(client)
        if index is None or index == group.own_index:
            return None
        leaf = group.tree.member(LeafIndex(index))
        return leaf if isinstance(leaf.source, KeyPackageSource) else None

    def _may(self) -> bool:
        policy, roster, own = self._group.policy, self._group.roster, self._parts.context.device.identity.account
        return all(policy.permits(right, own, roster) for right in (policy.may_add, policy.may_remove))

    async def _readmit(self, client: ClientIdentity, present: LeafNode) -> None:
        room = self._parts.room
        try:
            await self._parts.progress.until_live()
            await self._committer.wait_for_turn()
            if self._leaf(client) != present:
                return  # it was added afresh meanwhile, or has come
            found = await find_candidates(self._parts.context, self._group, [str(client)], again=True)
            package = found.packages.get(client)
            if package is None or package.leaf.signature_key != present.signature_key:
                log.info("%s: %s has no Welcome, and no KeyPackage with the same key", room, client)
                return
            key_package = package.key_package

            def replaced() -> list[AnyProposal] | None:
                index = self._group.roster.leaf_of(client)
                if index is None or self._leaf(client) != present:
                    return None
                return [Remove(LeafIndex(index)), Add(key_package)]

            await self._committer.commit(replaced)
        except MLSError as error:
            log.info("%s: %s cannot be added afresh: %s", room, client, error)
        finally:
            self._under_way.discard(client)


def _asks(payload: Proposal) -> LeafNode | None:
    """The leaf that a new member's Add asks to add (RFC 9420 12.1.8), whatever its epoch; nothing of it is verified."""
    try:
        return asking_leaf(check_consistency(payload))
    except PeerError:
        return None
