"""Judges a later state of a group by an earlier one that we know: one pure function, :func:`check_later`.

A client that has missed Commits cannot verify them.  Somebody shows it a GroupInfo, which proves only that its signer
has signed it.  The Commit that leads there may be void for all members, or may not exist.  Therefore the client judges
the difference between the two states as if the signer had made all of it in one Commit.

=====================  ============================================================================================
difference             allowed
=====================  ============================================================================================
the signer             is a client of the earlier state, with the same signature key; or a new client without any right,
                       such as one that has come in by its own Commit
a client that stays    keeps its signature key, or replaces it if the signer is an administrator with `may_add`; its
                       leaf is signed with that key.  It does not gain the mark of a newcomer.  It loses it only if the
                       signer could add it
a new client           the signer is an administrator with `may_add`; or the signer has `may_add`, and the account is
                       established in neither state (:mod:`.admission`); or it is of the signer's account, which has
                       `own_devices` or `may_add`; or it has a voucher by a client of the earlier state that stays; or
                       it is marked as a newcomer, where the policy lets anybody join, and its account has no client and
                       no mention there, nor an entry on the list of removed clients
a client that is gone  the signer has `may_remove`, as for a Remove; or `own_devices`, and it is of the signer's
                       account; or it was a newcomer
the policy and other   are the same, or the signer has `may_change_policy`; the room and the kind (a conversation or
extensions             not) never change
the list of removed    only the signer's account and newcomers have other entries, or the signer has `may_add` and
clients                `may_remove`; an entry that another account has made stays
=====================  ============================================================================================

What a signer with all rights shows is accepted, as its Commits would be.  What another member shows can contain only
what this member itself may do.  It cannot contain a removal, an arrival or a policy that others have made; they are
known as soon as one of their signers shows a state.  States in a row are judged one after another, each by the one
that was accepted before.

A client that has left by its own proposal is no exception: nobody can prove that proposal later.

*The user decides.*  Where a group has been split, the side that has to give way may have the only administrator.  Then
nobody can show it the other side.  If its own user has decided so for this very case
(:attr:`KnownState.despite_doubts`), each confirmed client of the earlier state, with its key, is believed like one with
all rights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256

from ..errors import PolicyViolation
from ..identity import ClientIdentity
from ..mls.crypto.cipher_suite import CipherSuite
from ..mls.group.commit_effects import Effects
from ..mls.structures.extensions import Extensions
from ..mls.structures.group_context import GroupContext
from ..mls.structures.leaf_node import LeafNode
from ..stanza.code_points import REMOVED_CLIENTS
from .proofs import DeviceVouchers, is_newcomer, vouches
from .removed_clients import RemovedAs, RemovedClient, RemovedClients
from .room_policy import ExternalJoins, Right, RoomPolicy
from .roster import Roster
from .view import GroupView

__all__ = ["KnownState", "brings_itself", "check_later", "followed", "key_digest"]

_RULE = "later-state"


def key_digest(signature_key: bytes) -> bytes:
    """What a :class:`KnownState` keeps of a signature key: its SHA-256."""
    return sha256(signature_key).digest()


@dataclass(frozen=True, slots=True)
class KnownState:
    """The part of a group's state by which later ones are judged.

    :ivar transcript: its confirmed_transcript_hash (RFC 9420 8.2), which no other state of the epoch has
    :ivar keys: the digest of each client's signature key
    :ivar scheme: the name of the group's signature scheme; empty if it is not known
    :ivar despite_doubts: whether our own user has decided to believe any of its clients, whatever their rights
    """

    group_id: bytes
    epoch: int
    transcript: bytes = field(repr=False)
    extensions: Extensions = field(repr=False)
    policy: RoomPolicy = field(repr=False)
    roster: Roster
    keys: Mapping[ClientIdentity, bytes] = field(repr=False)
    scheme: str = ""
    despite_doubts: bool = False

    @classmethod
    def of(cls, view: GroupView, context: GroupContext) -> KnownState:
        """Of a state that we have, or have accepted.  The cost is proportional to the number of members."""
        roster = view.roster
        keys = {client: key_digest(_leaf_of(view, client).signature_key) for client in roster.clients()}
        transcript = context.confirmed_transcript_hash
        scheme = view.suite.signature.name
        return cls(view.group_id, context.epoch, transcript, view.extensions, view.policy, roster, keys, scheme)

    @classmethod
    def after(cls, view: GroupView, context: GroupContext, effects: Effects) -> KnownState:
        """Of the state that a Commit leads to, which removes us: its members, policy and extensions.

        The transcript remains that of the state before, since nothing compares it.  The cost is proportional to the
        number of members.

        :param view: the group before the Commit, which its policy allows
        :param context: of the group before the Commit
        """
        extensions = view.extensions if effects.extensions is None else effects.extensions.after
        changed = {change.index: change.after for change in effects.changes}

        def leaf_at(index: int) -> LeafNode:
            leaf = changed.get(index)
            return view.leaf(index) if leaf is None else leaf

        roster = view.roster.after(effects)
        policy = RoomPolicy.required_in(extensions)
        later = replace(view, extensions=extensions, policy=policy, roster=roster, leaf=leaf_at)
        return replace(cls.of(later, context), epoch=context.epoch + 1)

    def knows(self, client: ClientIdentity, signature_key: bytes) -> bool:
        """Whether the client is in this state, with this key."""
        return self.keys.get(client) == key_digest(signature_key)

    def may(self, right: Right, client: ClientIdentity) -> bool:
        """Whether the policy grants a right to a client of this state."""
        index = self.roster.leaf_of(client)
        if index is None or not self.roster.counts(index):
            return False
        return self.policy.permits(right, client.account, self.roster)

    def is_believed(self, client: ClientIdentity) -> bool:
        """Whether any later state that a client shows is accepted: it has all rights, or our user has decided so."""
        if self.is_entitled(client):
            return True
        index = self.roster.leaf_of(client)
        return self.despite_doubts and index is not None and self.roster.counts(index)

    def is_entitled(self, client: ClientIdentity) -> bool:
        """Whether a client has all rights: any later state that it shows is accepted."""
        policy = self.policy
        rights = (policy.may_add, policy.may_remove, policy.may_change_policy)
        return all(self.may(right, client) for right in rights) and policy.is_administrator(client.account, self.roster)


def check_later(known: KnownState, later: GroupView, signer: ClientIdentity) -> None:
    """Check a later state of a group against the table above.

    The caller has verified the later state's signature and its tree (RFC 9420 12.4.3, 12.4.3.1), so each leaf is
    signed with the key in it.

    :param known: the earlier state
    :param signer: the client that has signed the GroupInfo of the later state
    :raises PolicyViolation: its signer cannot have brought about the difference alone
    :raises MalformedError: an extension of a new leaf cannot be parsed
    """
    if later.group_id != known.group_id:
        raise PolicyViolation(_RULE, "another group")
    if later.policy.room != known.policy.room or later.policy.conversation != known.policy.conversation:
        raise PolicyViolation(_RULE, "the policy of another room, or of another kind", str(signer))
    index = later.roster.leaf_of(signer)
    if index is None or (signer in known.keys and not known.knows(signer, later.leaf(index).signature_key)):
        raise PolicyViolation(_RULE, "signed with a key that is not the signer's", str(signer))
    if known.is_believed(signer):
        return
    judged = _Difference(known, later, signer)
    for client in later.roster.clients():
        judged.check_present(client)
    for client in known.roster.clients():
        if later.roster.leaf_of(client) is None:
            judged.check_gone(client)
    judged.check_extensions()


def brings_itself(
    known: KnownState,
    suite: CipherSuite,
    client: ClientIdentity,
    leaf: LeafNode,
    leaf_of: Callable[[ClientIdentity], LeafNode | None],
    *,
    by_right: bool = False,
) -> bool:
    """Whether a client that the earlier state does not have comes into a later one by what its own leaf has.

    That is the mark of a newcomer, where anybody may join, or a voucher by a client of the earlier state that stays.

    :param leaf: its leaf, whose signature the caller has verified, or will
    :param leaf_of: returns the later state's leaf of a client; None if it has none
    :param by_right: whether the signer may add, so that a voucher counts without `own_devices` as well
    :raises MalformedError: an extension of the leaf cannot be parsed
    """
    policy, roster, removed = known.policy, known.roster, RemovedClients.found_in(known.extensions)
    if is_newcomer(leaf):
        named = roster.has(client.account) or client.account in policy.administrators
        anybody = policy.external_joins == ExternalJoins.ANYBODY
        return anybody and not named and removed is not None and not removed.bars_account(client.account)
    if not (policy.own_devices or by_right) or removed is None or removed.bars(client):
        return False
    vouchers = DeviceVouchers.found_in(leaf.extensions)
    for voucher in () if vouchers is None else vouchers.vouchers:
        for index in roster.leaves_of(client.account):
            issuer = roster.at(index)
            if voucher.issuer != str(issuer).encode() or not roster.counts(index):
                continue
            later = leaf_of(issuer)
            if later is None or not known.knows(issuer, later.signature_key):
                continue
            if vouches(suite, voucher, later.signature_key, client, leaf.signature_key):
                return True
    return False


def followed(known: KnownState, later: GroupView) -> KnownState:
    """What a client that has lost a group knows of another one, which may have followed it by a ReInit (RFC 9420 11.2).

    Under another signature scheme all clients have other keys, and a client that has lost the group has nothing of the
    former ones but their digests, by which it cannot verify what members verify (:mod:`.continuation`).  Then only the
    Authentication Service says whose they are (RFC 9750 4.1), and it judges all leaves of the later state in any case.
    Under the same scheme a client keeps its key, or an administrator shows the state.
    """
    if later.suite.signature.name == known.scheme:
        return replace(known, group_id=later.group_id)
    leaves = {client: _leaf_of(later, client) for client in known.keys if later.roster.leaf_of(client) is not None}
    keys = known.keys
    if not any(known.knows(client, leaf.signature_key) for client, leaf in leaves.items()):
        keys = {**keys, **{client: key_digest(leaf.signature_key) for client, leaf in leaves.items()}}
    return replace(known, group_id=later.group_id, keys=keys)


@dataclass(frozen=True, slots=True)
class _Difference:
    known: KnownState
    later: GroupView
    signer: ClientIdentity

    def check_present(self, client: ClientIdentity) -> None:
        known, leaf = self.known, _leaf_of(self.later, client)
        if self._adds_anybody:
            return
        index = known.roster.leaf_of(client)
        if index is None:
            self._check_new(client, leaf)
        elif not known.knows(client, leaf.signature_key):
            raise self._violation(f"{client} has another signature key")
        elif is_newcomer(leaf) == known.roster.is_newcomer(index):
            return
        elif is_newcomer(leaf) or not self._adds_unestablished(client.account):
            raise self._violation(f"{client} gains or loses the mark of a newcomer")

    def _adds_unestablished(self, account: str) -> bool:
        """Whether the signer adds clients of this account by its right, without any proof (:mod:`.admission`)."""
        if not self._may_add or self.known.roster.has_say(account):
            return False
        return account not in self.known.policy.administrators and account not in self.later.policy.administrators

    def _check_new(self, client: ClientIdentity, leaf: LeafNode) -> None:
        if self._adds_unestablished(client.account) and not is_newcomer(leaf):
            return
        if not is_newcomer(leaf) and self._adds_own(client):
            return
        if not brings_itself(self.known, self.later.suite, client, leaf, self._leaf_of, by_right=self._may_add):
            raise self._violation(f"nothing that we know lets {client} in")

    def _leaf_of(self, client: ClientIdentity) -> LeafNode | None:
        index = self.later.roster.leaf_of(client)
        return None if index is None else self.later.leaf(index)

    def _adds_own(self, client: ClientIdentity) -> bool:
        """Whether the signer adds a client of its own account, by that or by its right."""
        removed = RemovedClients.found_in(self.known.extensions)
        if self._may_add and client.account == self.signer.account:
            return True
        return self._is_own(client) and not (removed is not None and removed.bars_own_add(client))

    def check_gone(self, client: ClientIdentity) -> None:
        known, signer = self.known, self.signer
        index = known.roster.leaf_of(client)
        assert index is not None, "a client of the known state"
        counts = self._counts(signer)
        if counts and (not known.roster.counts(index) or self._is_own(client)):
            return
        if not known.may(known.policy.may_remove, signer):
            raise self._violation(f"no right to remove {client}")
        if known.policy.is_administrator(client.account, known.roster) and not known.policy.is_administrator(
            signer.account, known.roster
        ):
            raise self._violation(f"no right to remove the administrator {client}")

    def check_extensions(self) -> None:
        known, later = self.known, self.later
        same = _without_list(known.extensions) == _without_list(later.extensions)
        if not same and not known.may(known.policy.may_change_policy, self.signer):
            raise self._violation("no right to change the group's extensions")
        if self._may_add and known.may(known.policy.may_remove, self.signer):
            return
        before, after = RemovedClients.found_in(known.extensions), later.removed
        if before is not None and after is None:
            raise self._violation("the list of removed clients is gone")
        kept = () if after is None else tuple(each for each in after.clients if each.removed_as == RemovedAs.MEMBER)
        for entry in () if before is None else before.clients:
            if entry.removed_as != RemovedAs.MEMBER or self._is_added_again(entry):
                continue
            if not any(each.account == entry.account and each.device in (b"", entry.device) for each in kept):
                raise self._violation(f"no right to drop {entry.account} from the list of removed clients")
        entries = set(() if before is None else before.clients) ^ set(() if after is None else after.clients)
        for entry in entries:
            if entry.account != self.signer.account and any(
                known.roster.counts(index) for index in known.roster.leaves_of(entry.account)
            ):
                raise self._violation(f"no right to change the entry of {entry.account} on the list of removed clients")

    def _is_added_again(self, entry: RemovedClient) -> bool:
        """Whether the signer's Add may have deleted an entry (mls-policy, "Removed Clients")."""
        return self._may_add and any(map(entry.concerns, self.later.roster.clients()))

    @property
    def _may_add(self) -> bool:
        return self.known.may(self.known.policy.may_add, self.signer)

    @property
    def _adds_anybody(self) -> bool:
        """Whether the signer adds by its right alone: an administrator that has it."""
        return self._may_add and self.known.policy.is_administrator(self.signer.account, self.known.roster)

    def _is_own(self, client: ClientIdentity) -> bool:
        """Whether a client is of the signer's account, and the account acts for its own clients."""
        own = self.known.policy.own_devices and client.account == self.signer.account
        return own and self._counts(self.signer)

    def _counts(self, client: ClientIdentity) -> bool:
        index = self.known.roster.leaf_of(client)
        return index is not None and self.known.roster.counts(index)

    def _violation(self, reason: str) -> PolicyViolation:
        return PolicyViolation(_RULE, reason, str(self.signer))


def _leaf_of(view: GroupView, client: ClientIdentity) -> LeafNode:
    index = view.roster.leaf_of(client)
    assert index is not None, "a client of the roster"
    return view.leaf(index)


def _without_list(extensions: Extensions) -> Extensions:
    return tuple(entry for entry in extensions if entry.extension_type != REMOVED_CLIENTS)
