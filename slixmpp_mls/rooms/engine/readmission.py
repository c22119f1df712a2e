"""Adds a client afresh that could not read its Welcome.

The stanza with a Welcome may be missing from the archive when the invited client comes to read it.  The client is
then in the group for everybody but itself.  It asks to be added (:mod:`.rejoin`), without a proof of return: it does
not know which of its KeyPackages was used, so it does not know its leaf's return key.  If nothing else is in the
archive, it does not know the epoch either.

Such a request does not prove a return, so that members do not commit it as they are.  It proves one thing: its sender
has the signature key that it is signed with.  A member that may add and remove replaces the leaf by the KeyPackage in
the request if all of this holds:

- the room says that the request is of the client's own account;
- the request, its KeyPackage and its leaf are signed with the signature key of the client's leaf in the tree;
- that leaf is still the one of a KeyPackage with which the client was added: it has never renewed its keys, and it has
  sent no message in this epoch, for which it must have been in the group;
- the KeyPackage is another one than that leaf's, and not older, nor made more than a day before that leaf came into the
  group by the room's clock, if we saw it come: whoever posts an old request once more would have the client replaced by
  a KeyPackage whose keys it has deleted.  The leaf's KeyPackage may have been in the directory for weeks, and the
  request be one of an earlier stay;
- the Authentication Service vouches for the leaf, as at any Add;
- the request is not one that members commit as it is, or refuse as one too many, because it proves a return in the
  current epoch (:mod:`slixmpp_mls.client.group.applying`).

The account's directory has no part in it.

At most :data:`~slixmpp_mls.client.storage.rejoin_limit.LIMIT` times in an hour for each account.
"""

from __future__ import annotations

import logging

from ...client import Step
from ...client.storage.rejoin_limit import LIMIT
from ...delivery import RoomStanza
from ...errors import InvalidError, MLSError, PeerError, StoreError
from ...identity import ClientIdentity
from ...mls.parameters import DAY, HOUR
from ...mls.schedule.message_protection import unprotect_public
from ...mls.schedule.secret_tree import RatchetKind
from ...mls.structures.framing import NewMemberProposalSender, PublicMessage
from ...mls.structures.key_package import KeyPackage
from ...mls.structures.leaf_node import KeyPackageSource, LeafNode
from ...mls.structures.proposals import Add, AnyProposal, Remove
from ...mls.tree.leaf_validation import GroupRequirements
from ...mls.tree.tree_math import LeafIndex
from ...policy import proves_return
from ...stanza.consistency import check as check_consistency
from ...stanza.elements import Proposal
from .committer import Committer
from .parts import RoomParts

__all__ = ["Readmission"]

log = logging.getLogger(__name__)

_RULES = "urn:xmpp:mls:0 rejoining"


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
                try:
                    self._consider(stanza, payload)
                except (PeerError, StoreError) as error:
                    log.info("%s: a request to be added afresh: %s", self._parts.room, error)

    def _consider(self, stanza: RoomStanza, payload: Proposal) -> None:
        """Have a client added afresh if a stanza's proposal is a request of it that proves enough.

        :raises PeerError: it is nothing to act on
        :raises StoreError: the store failed
        """
        request = _asks(payload)
        if request is None or stanza.real_jid is None or not self._may():
            return
        message, key_package = request
        client = ClientIdentity.from_leaf(key_package.leaf_node)
        if stanza.real_jid.bare != client.account or client in self._under_way:
            return
        present = self._leaf(client)
        if present is None:
            return
        # RFC 9420 6.1, 12.1.8: signed by the key of the KeyPackage, which is the one that we know
        suite = self._group.mls.suite
        unprotect_public(suite, message, None, b"").verify(suite, present.signature_key, b"")
        if message.content.epoch == self._group.mls.epoch and self._proves_return(present, key_package):
            return
        asking = self._verified(client, key_package, present)
        now = self._parts.context.now
        begun = [time for time in self._begun.get(client.account, []) if abs(now - time) < HOUR]
        if len(begun) >= LIMIT:
            log.info("%s: %s has asked too often", self._parts.room, client.account)
            return
        self._begun[client.account] = [*begun, now]
        self._under_way.add(client)
        self._parts.spawn(self._readmit(client, present, asking), f"adding {client} afresh")

    def _proves_return(self, present: LeafNode, key_package: KeyPackage) -> bool:
        group = self._group.mls
        try:
            return proves_return(group.suite, group.group_id, present, key_package.leaf_node)
        except PeerError:
            return False

    def _verified(self, client: ClientIdentity, key_package: KeyPackage, present: LeafNode) -> KeyPackage:
        """Judge the KeyPackage of a request.

        :raises InvalidError: it cannot take the place of a leaf
        :raises StoreError: the store failed
        """
        requirements = GroupRequirements.of_context(self._group.mls.context)
        leaf = (
            self._parts.context.device.leaf_rules(self._parts.context.now)
            .verify_key_package(key_package, requirements)
            .leaf
        )
        if leaf.signature_key != present.signature_key or leaf.credential != present.credential:
            raise InvalidError("not the key or the credential of the client's leaf", _RULES)
        if leaf.encryption_key == present.encryption_key or _made(leaf) < _made(present):
            raise InvalidError("not a new KeyPackage, so an old request", _RULES)
        came = self._group.members.renewed(client)
        if came is not None and _made(leaf) < came - DAY:  # a day: clocks differ, and a request may have crossed
            raise InvalidError("a KeyPackage from before its client came, so an old request", _RULES)
        return key_package

    def _leaf(self, client: ClientIdentity) -> LeafNode | None:
        """The client's leaf, if it is another's, still that of its KeyPackage, and has sent nothing in this epoch."""
        group = self._group.mls
        index = self._group.roster.leaf_of(client)
        if index is None or index == group.own_index or group.secret_tree.used(index, RatchetKind.APPLICATION):
            return None
        leaf = group.tree.member(LeafIndex(index))
        return leaf if isinstance(leaf.source, KeyPackageSource) else None

    def _may(self) -> bool:
        policy, roster, own = self._group.policy, self._group.roster, self._parts.context.device.identity.account
        return all(policy.permits(right, own, roster) for right in (policy.may_add, policy.may_remove))

    async def _readmit(self, client: ClientIdentity, present: LeafNode, key_package: KeyPackage) -> None:
        room, context = self._parts.room, self._parts.context
        try:
            await self._parts.progress.until_live()
            await self._committer.wait_for_turn()
            (verdict,) = await context.authentication.validate((key_package.leaf_node,), self._group.mls.suite)
            if not verdict.is_valid:
                log.info("%s: %s is not added afresh: %s", room, client, verdict.text)
                return

            def replaced() -> list[AnyProposal] | None:
                index = self._group.roster.leaf_of(client)
                if index is None or self._leaf(client) != present:
                    return None  # it was added afresh meanwhile, or has come
                return [Remove(LeafIndex(index)), Add(key_package)]

            await self._committer.commit(replaced)
        except MLSError as error:
            log.info("%s: %s cannot be added afresh: %s", room, client, error)
        finally:
            self._under_way.discard(client)


def _made(leaf: LeafNode) -> int:
    """When a KeyPackage was made, by its lifetime: seconds since the Unix epoch."""
    assert isinstance(leaf.source, KeyPackageSource)
    return leaf.source.lifetime.not_before + HOUR  # see OwnKeyPackages.make


def _asks(payload: Proposal) -> tuple[PublicMessage, KeyPackage] | None:
    """A new member's Add (RFC 9420 12.1.8), whatever its epoch; nothing of it is verified.

    :raises PeerError: it cannot be read
    """
    body = check_consistency(payload).body
    if not isinstance(body, PublicMessage) or not isinstance(body.content.sender, NewMemberProposalSender):
        return None
    proposal = body.content.content
    return (body, proposal.key_package) if isinstance(proposal, Add) else None
