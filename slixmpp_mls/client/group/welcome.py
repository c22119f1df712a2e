"""Joins the group by a Welcome for a KeyPackage of ours (RFC 9420 12.4.3.1), or after our own external Commit.

::

    <welcome/> ──► find ── tree fetched, leaves judged ──► accept ──► we are in
      └── tree elsewhere, proofs in its place ──► accept_partially ──► in, without the tree (:mod:`.partial`)
    our external Commit, reflected (:mod:`.external_commit`) ──► accept_entry ──► we are in

The claims of a Welcome's GroupInfo are checked first: it names the group and epoch of its element, it belongs to this
room, it is no other room's group, and we have not been in its epoch.  If the ratchet tree is elsewhere, it is fetched
next.  Then the signature, the tree and the leaves are verified, those of a large tree in another thread
(:mod:`.tree_check`).  A Welcome that is elsewhere itself is fetched before, if its location names a KeyPackage of ours.

In a large group the GroupInfo says where the tree is, and proves the leaves of its signer and of ours
(:mod:`.membership_proofs`).  Then we join first and fetch the tree afterwards, unless we know an earlier state of the
group, by which the whole tree is judged, or the group continues another one.

Only members can tell whether the Commit in a Welcome's stanza is valid.  If we know an earlier state of the group, it
judges the Welcome as it judges a GroupInfo (:mod:`slixmpp_mls.policy.later_state`): our KeyPackages are public, so
anybody can make a group of the same id and lead us into it.  A client that was removed, and reads the room on, follows
a Welcome that an invitation names, or one back into the same group by a member that may add it, as the state after its
removal shows.  A client that knows nothing believes the Authentication Service's verdict on the inviter.

Moreover, a second Commit for an epoch has lost (rule 1), and its Welcome leads into an epoch without other members.
Therefore, while we are outside, we remember the groups and epochs that a Commit in the room has ended.  A Welcome with
a later Commit for the same epoch is ignored.

The earlier Commit may be void, however, and anybody in the room can post a void one.  The inviter knows: it sends an
invitation when its Commit has won, and the invitation names the place before that Commit.  So an invitation by the
account that, as the room says, sent the ignored Welcome makes us read the room again from there.  One invitation
makes us read again once, and no more than what follows the Welcome.

The module is longer than others: most of it is checks that a Welcome must pass before it is followed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from itertools import chain, islice

from ...errors import InvalidError, PeerError
from ...identity import ClientIdentity
from ...mls.crypto.cipher_suite import CipherSuite, SignaturePrivateKey
from ...mls.group.group import Group
from ...mls.group.joining import StagedJoin, UnverifiedGroupInfo
from ...mls.partial import PartialGroup
from ...mls.registry import ExtensionType
from ...mls.structures.group_context import GroupContext
from ...mls.structures.leaf_node import LeafNode
from ...mls.structures.partial import AnnotatedWelcome, SenderAuthenticatedWelcome
from ...mls.structures.welcome import Welcome
from ...mls.tree.leaf_creation import KeyPackageBundle
from ...policy import GroupView, RoomPolicy, derive_return_key, refuse_group_of_0_1
from ...policy.continuation import check_continuation
from ...policy.later_state import check_later, followed
from ...policy.roster import Roster
from ...stanza import elements
from ...stanza.blob import MAX_BLOB, BlobReference, RatchetTreeLocation, tree_limit
from ...stanza.consistency import check as check_consistency
from ...stanza.locations import WelcomePlace
from ..device import Device
from ..events import CommitLost, Event, GroupContinued, Joined, JoinedPartially
from ..member import Member
from ..storage import leaf_ages
from ..storage.doubts import Doubt, Doubts
from ..storage.leaf_ages import LeafAge
from ..storage.post_commit_actions import PostCommitActions
from ..storage.records import MembershipState, OutboxKind, RoomRecord, WholeTreeRecord
from .actions import Ignore, Incoming, Join, JoinPartially, Step
from .evidence import Evidence
from .external_commit import check_is_new
from .group_info_key import GroupInfoKey
from .join_request import JoinRequests
from .membership_proofs import MembershipProofs
from .resumption_psks import OtherGroups
from .room_change import MAX_UNREAD_KEYS, Change
from .room_contents import Membership, PartialMembership
from .room_state import RoomState
from .tree_check import LARGE, TreeCheck
from .tree_leaves import TreeLeaves

__all__ = ["Welcomes", "with_commits"]

_RULES = "urn:xmpp:mls:0 business rules"
_LARGE = "urn:xmpp:mls:0 large"

_MARK = 16  # octets that stand for a group and an epoch
_COMMITS = 64  # of them remembered: a Commit that loses comes soon after the one that wins
_INVITATIONS = 8  # remembered, and as many ignored Welcomes: both are of the last seconds


class Welcomes:
    """Brings us into a room's group.

    :ivar partial_from: members of the smallest group, by the width of its tree, that we join before we have its tree;
        None: of none
    """

    def __init__(self, device: Device, state: RoomState, requests: JoinRequests) -> None:
        self._device = device
        self._state = state
        self._requests = requests
        self.partial_from: int | None = None
        self._ignored: deque[tuple[str, str]] = deque(maxlen=_INVITATIONS)  # place before a Welcome, claimed sender
        self._invited: deque[tuple[str, str]] = deque(maxlen=_INVITATIONS)  # place before a Welcome, inviter

    # --- which Commits count -------------------------------------------------------------------

    def came_second(self, incoming: Incoming) -> bool:
        """Whether a Commit in the stanza is for an epoch that another one has ended before, while we are outside."""
        if (self._state.cursor, incoming.claimed) in self._invited:
            return False  # the inviter says that it has won
        seen = _marks(self._state.record.commits)
        return any(each in seen for each in _commits_in(incoming))

    def note_ignored(self, incoming: Incoming) -> None:
        """Remember a Welcome for us that is ignored, because the Commit beside it came second.

        To be called before our place in the room moves past it.
        """
        place, sender = self._state.cursor, incoming.claimed
        if place is not None and sender is not None and self.came_second(incoming) and self._is_for_us(incoming):
            self._ignored.append((place, sender))

    def invited(self, inviter: str, after: str | None) -> str | None:
        """Whether an invitation shows that we have ignored a Welcome that counts.

        :param inviter: bare JID
        :param after: archive id of the stanza before the one with the Welcome, as the invitation says
        :returns: archive id of the stanza before the Welcome that is to be read again; None if there is none
        """
        places = [place for place, sender in self._ignored if sender == inviter]
        if places:
            place = after if after in places else places[-1]
            self._ignored.remove((place, inviter))
            return place
        if after is not None:
            self._invited.append((after, inviter))  # it is quicker than the room
        return None

    def _is_for_us(self, incoming: Incoming) -> bool:
        welcomes = [each for each in incoming.payloads if isinstance(each, elements.Welcome)]
        with self._state.store.transaction() as transaction, suppress(PeerError):
            for payload in welcomes:
                welcome = check_consistency(payload).body
                assert isinstance(welcome, Welcome)
                references = [entry.new_member for entry in welcome.secrets]
                if self._device.key_packages.find(transaction, references) is not None:
                    return True
        return False

    def is_for_spent(self, incoming: Incoming) -> bool:
        """Whether a Welcome in the stanza is for a KeyPackage of ours that was used before.

        :raises StoreError: the store failed
        """
        with self._state.store.transaction() as transaction:
            return self._device.key_packages.is_spent(transaction, _references(incoming))

    def is_for_ours(self, incoming: Incoming) -> bool:
        """Whether a Welcome in the stanza is for a KeyPackage of ours, whether we can open it or not.

        :raises StoreError: the store failed
        """
        with self._state.store.transaction() as transaction:
            return self._device.key_packages.is_ours(transaction, _references(incoming))

    def unread_keys(self, incoming: Incoming) -> list[tuple[CipherSuite, SignaturePrivateKey]]:
        """Return keys, one of them of the leaf that a Welcome in the stanza, which we do not follow, has given to us.

        If its Commit counts for the others, our leaf is in their tree, and the key proves that it is ours.  Whoever has
        made it may have named others of our KeyPackages as well.

        :returns: also their cipher suites; at most :data:`.MAX_UNREAD_KEYS`
        :raises StoreError: the store failed
        """
        packages, references = self._device.key_packages, _references(incoming)
        with self._state.store.transaction() as transaction:
            found = (packages.find(transaction, (reference,)) for reference in references)
            unused = ((each.suite, derive_return_key(each.suite, each.leaf_key)) for each in found if each is not None)
            return list(islice(chain(unused, packages.spent_return_keys(transaction, references)), MAX_UNREAD_KEYS))

    # --- the Welcome ---------------------------------------------------------------------------

    def find(
        self, incoming: Incoming, others: OtherGroups, *, judged: bool = False, outside: bool = False
    ) -> Step | None:
        """Find the meaning of a Welcome for us in the stanza; None if there is none.

        :param judged: whether the Commit beside it has been verified, and lets us in
        :param outside: whether we have no group in this room, so that we may join before we have the tree
        :raises PeerError: it is not acceptable; or there is none, and one of the others cannot be read
        :raises StoreError: the store failed
        """
        unreadable: PeerError | None = None
        for payload in incoming.payloads:
            try:
                if isinstance(payload, elements.WelcomeLocation):
                    if not _is_beside_its_commit(payload, incoming):
                        continue  # it belongs to no epoch, so nothing is fetched for it
                    place = WelcomePlace.read(payload.data)
                    if self._ours(place.new_members) is None:
                        continue
                    if place.blob.size > MAX_BLOB:
                        raise InvalidError(f"a Welcome of {place.blob.size} octets", _LARGE)
                    if place.blob not in incoming.fetched:
                        return Step(incoming, Ignore(), fetch=place.blob)
                    octets = incoming.fetched[place.blob]
                    payload = elements.Welcome(payload.group, payload.epoch, octets)
                elif not isinstance(payload, elements.Welcome):
                    continue
                welcome = check_consistency(payload).body
            except PeerError as error:
                unreadable = error  # by itself: ours may be the next one
                continue
            assert isinstance(welcome, Welcome)
            bundle = self._ours([entry.new_member for entry in welcome.secrets])
            if bundle is not None:
                return self._examine(incoming, payload, welcome, bundle, others, judged, outside)
        if unreadable is not None:
            raise unreadable
        return None

    def _ours(self, references: Sequence[bytes]) -> KeyPackageBundle | None:
        with self._state.store.transaction() as transaction:
            return self._device.key_packages.find(transaction, references)

    def _examine(
        self,
        incoming: Incoming,
        payload: elements.Welcome,
        welcome: Welcome,
        bundle: KeyPackageBundle,
        others: OtherGroups,
        judged: bool,
        outside: bool,
    ) -> Step:
        info = Group.peek(welcome, bundle, psks=others.psk, groups=others.group)
        context = info.group_context
        if (context.group_id, context.epoch) != (payload.group, payload.epoch):
            raise InvalidError("a Welcome to another group or epoch than its element says", _RULES)
        policy = RoomPolicy.required_in(context.extensions)
        if policy.room != self._state.room:
            raise InvalidError("a Welcome to the group of another room", _RULES)
        if not policy.allows_suite(context.cipher_suite):
            raise InvalidError("a group of a cipher suite that its policy does not allow", "urn:xmpp:mls:0 policy")
        if self._state.standing not in {MembershipState.LOST, MembershipState.MEMBER}:  # ours goes on as it is
            refuse_group_of_0_1(context.extensions)
        check_is_new(self._state, context.group_id, context.epoch)
        if not judged and self._is_replaced(context):
            return Step(incoming, Ignore())
        partial = self._state.partial
        if partial is not None and partial.group.group_id != context.group_id:
            raise InvalidError("a Welcome to another group than the one whose tree we lack", _RULES)
        location = _tree_location(info)
        if location is not None and location.size > tree_limit(policy.max_members):
            raise InvalidError(f"a ratchet tree of {location.size} octets, which its policy does not allow", _LARGE)
        if location is not None and location not in incoming.fetched:
            early = outside and partial is None and not incoming.whole
            if early and self._state.known() is None and not policy.conversation:
                step = self._examine_proofs(incoming, welcome, bundle, others, info, policy, location)
                if step is not None:
                    return step
            return Step(incoming, Ignore(), fetch=location)
        tree = None if location is None else incoming.fetched[location]
        check = TreeCheck(info, tree, self._device.parameters.lifetime_limit)
        checked = incoming.checked if incoming.checked is not None and incoming.checked.check == check else None
        if checked is None and check.octets >= LARGE:
            return Step(incoming, Ignore(), check=check)
        if checked is not None and checked.error is not None:
            raise checked.error
        # The GroupInfo, of which only claims have been judged so far, is verified here.
        staged = Group.join(
            welcome,
            bundle,
            tree=tree,
            public=None if checked is None else checked.public,
            psks=others.psk,
            groups=others.group,
            identify=ClientIdentity.from_leaf,
            parameters=self._device.parameters,
        )
        state = staged.state
        roster = checked.roster if checked is not None and checked.roster is not None else Roster.of(state.members())
        if policy.conversation and not set(roster.accounts()) <= set(policy.administrators):
            # as a Commit that adds anybody else is void (mls-policy, "Policy Checks")
            raise InvalidError("a conversation with somebody else in it", "urn:xmpp:mls:0 policy")
        if not judged:
            inviter = ClientIdentity.from_leaf(state.tree.member(staged.inviter))
            later = GroupView.of(state.public, policy, roster)
            if not self._leads_back(later, inviter):
                self._require_invited(incoming, context.group_id, inviter.account)
            self._check_inviter(staged, later, inviter)
        assert isinstance(state, Group)
        leaves = TreeLeaves(state.tree, roster, state.own_index)
        group_info_key = GroupInfoKey.handed_over(info.extensions, state)
        return Step(incoming, Join(staged, bundle, roster, policy, group_info_key), leaves)

    def _is_replaced(self, context: GroupContext) -> bool:
        """Whether an external Commit of ours, in transit, replaces the leaf that a Welcome gives to us.

        mls-recovery, "Joining by an External Commit": its GroupInfo, of the epoch of the Welcome or of a later one, was
        read from the archive before the Welcome.  A client that joined by the Welcome would take its own Commit for its
        removal.
        """
        if self._state.entry is None:
            return False
        outside = self._state.outside
        return outside.group_id == context.group_id and outside.entry_epoch >= context.epoch

    def _examine_proofs(
        self,
        incoming: Incoming,
        welcome: Welcome,
        bundle: KeyPackageBundle,
        others: OtherGroups,
        info: UnverifiedGroupInfo,
        policy: RoomPolicy,
        location: BlobReference,
    ) -> Step | None:
        """Join without the tree, if the Welcome proves our leaf and its signer's; None if we need the tree first.

        draft-ietf-mls-partial, Joining via Annotated Welcome: both proofs add up to the tree hash of the GroupContext,
        which is in the key schedule and so confirmed by the confirmation tag.
        """
        proofs = MembershipProofs.readable_in(info.extensions)
        own = None if proofs is None else proofs.of_joiner(bundle.key_package.leaf_node)
        if proofs is None or own is None or self.partial_from is None or own.n_leaves < self.partial_from:
            return None
        try:
            staged = PartialGroup.join(
                AnnotatedWelcome(SenderAuthenticatedWelcome(welcome, proofs.inviter), own),
                bundle,
                psks=others.psk,
                groups=others.group,
                parameters=self._device.parameters,
            )
            inviter = staged.state.tree.member(staged.inviter)
            client = ClientIdentity.from_leaf(inviter)
            key = GroupInfoKey.handed_over(info.extensions, staged.state)
        except PeerError:
            return None  # with the whole tree we learn whether the Welcome is to blame, or the proofs alone
        left, group_id = self._state.left, staged.state.group_id
        if left is not None and left.group_id == group_id and not self._is_invited(group_id, client.account):
            return None  # the state that we have left judges the whole tree
        self._require_invited(incoming, group_id, client.account)
        return Step(incoming, JoinPartially(staged, bundle, policy, location, key), (inviter,))

    def _check_inviter(self, staged: StagedJoin, later: GroupView, inviter: ClientIdentity) -> None:
        """Judge who lets us in by what we know of the group (mls-recovery, "Which GroupInfo").

        The Welcome proves only who has signed its GroupInfo (RFC 9420 12.4.3.1), not that its Commit is valid.

        :raises PolicyViolation: the inviter cannot have brought this about
        """
        known, before = self._state.known(), self._state.membership
        if self._state.partial is not None:
            key = staged.state.tree.member(staged.inviter).signature_key
            self._check_known(self._state.partial, inviter, key)
        if known is None:
            return
        continues = None if staged.continues is None else staged.continues.psk_group_id
        if before is not None and before.group.closed is not None and continues == before.group.group_id:
            # RFC 9420 11.2, as mls-operations, "Another Cipher Suite", narrows it down
            check_continuation(before.view, (leaf for _, leaf in staged.state.members()), inviter)
            return
        check_later(known if later.group_id == known.group_id else followed(known, later), later, inviter)

    def _leads_back(self, later: GroupView, inviter: ClientIdentity) -> bool:
        """Whether the state of the group after our removal shows that the inviter may add us to it again.

        The invitation may have come while we were in the group, where it changes nothing (mls, "Being Invited").
        """
        left = self._state.left
        if left is None:
            return False
        try:
            check_later(left, later, inviter)
        except PeerError:
            return False  # an invitation decides
        return True

    def _require_invited(self, incoming: Incoming, group_id: bytes, inviter: str) -> None:
        """:raises InvalidError: no invitation names the group and account, as far as we need one"""
        if self._is_invited(group_id, inviter):
            return
        if self._state.cursor is not None and incoming.claimed is not None:
            self._ignored.append((self._state.cursor, incoming.claimed))  # an invitation may be on its way
        raise InvalidError("a Welcome into a group, or by an account, that no invitation names", _RULES)

    def _is_invited(self, group_id: bytes, inviter: str) -> bool:
        """Whether the invitations that count let this account lead us into this group.

        Without any, every account may that the user has not excluded, unless we were removed from the room's group or
        have left it: then we wait for nobody.

        KeyPackages are public, so anybody in the room can let us into a group of their own.  A group id is public as
        well, so the account that has signed the GroupInfo counts, too; the Authentication Service judges its leaf (mls,
        "Adding People").
        """
        expected = self._state.expected()
        if self._state.standing is MembershipState.OUT:
            return expected.names(group_id, inviter)
        return expected.admits(group_id, inviter)

    @staticmethod
    def _check_known(partial: PartialMembership, inviter: ClientIdentity, key: bytes) -> None:
        """Judge who lets us in by what a partial member knows: its inviter's key, and the policy.

        A name is no proof: the caller asks the Authentication Service whether an administrator's leaf is the account's.

        :raises InvalidError: it is neither the inviter nor, by its name, an administrator
        """
        leaf = partial.inviter
        same = (ClientIdentity.from_leaf(leaf), leaf.signature_key) == (inviter, key)
        if not same and inviter.account not in partial.policy.administrators:
            raise InvalidError("a Welcome by nobody whom we know, before we have the group's tree", _RULES)

    # --- arriving ------------------------------------------------------------------------------

    def accept(self, join: Join, record: RoomRecord, now: int, judged: Iterable[Doubt]) -> list[Event]:
        """We are in the group by a Welcome for a KeyPackage of ours.

        :param record: with our place behind its stanza
        :param now: seconds since the Unix epoch
        :param judged: doubts about the group's leaves
        :raises StoreError: nothing has changed
        """
        group = join.staged.state
        assert isinstance(group, Group)
        inviter = Member.of(join.staged.inviter, group.tree.member(join.staged.inviter))
        membership = Membership(group, join.roster, join.policy, Doubts(judged))
        return self._arrive(membership, join.group_info_key, record, now, inviter, join.bundle)

    def accept_entry(self, group: Group, record: RoomRecord, now: int, judged: Iterable[Doubt]) -> list[Event]:
        """We are in the group by our own external Commit; the rest as of :meth:`accept`."""
        membership = Membership.of(group, Doubts(judged), PostCommitActions())
        return self._arrive(membership, self._state.entry_info_key, record, now)

    def _arrive(
        self,
        membership: Membership,
        group_info_key: GroupInfoKey | None,
        record: RoomRecord,
        now: int,
        inviter: Member | None = None,
        bundle: KeyPackageBundle | None = None,
    ) -> list[Event]:
        state, group, before = self._state, membership.group, self._state.membership
        # Unsent application data was meant for the group's members: it stays if this is the same group.
        followed = before is not None and before.group.closed is not None
        same = followed or record.group_id == group.group_id
        # No other member has what follows our Commits, or knows that we want to leave.
        goes_on = same and (before is not None or state.standing is MembershipState.LOST)
        missed = self._requests.missed(record)
        record = record.as_member(group.group_id, group.epoch, now)
        events: list[Event] = [
            CommitLost(state.room, waiting.origin_id.decode(), "we were removed, and added afresh")
            for _, waiting in state.outbox
            if waiting.kind is OutboxKind.COMMIT and not waiting.refused
        ]
        evidence = Evidence.CONTINUED if followed else Evidence.RETURNED
        if state.speaking is None:
            evidence = Evidence.NO_STATE
        with state.change() as change:
            if goes_on:
                membership = replace(membership, actions=change.kept_actions())
            change.end_membership(evidence, keep_messages=same)
            if followed:
                change.carry_messages_over()
            change.begin_membership(membership, group_info_key)
            self._end_waiting(change, group.own_leaf, bundle, now)
            change.put_record(record)
        if followed and inviter is not None:
            return [*events, GroupContinued(state.room, group.epoch, inviter, group.suite.id)]
        return [*events, Joined(state.room, group.epoch, inviter, missed)]

    def accept_partially(self, join: JoinPartially, record: RoomRecord, now: int) -> list[Event]:
        """We are in the group by a Welcome for a KeyPackage of ours, without its ratchet tree.

        :param record: with our place behind its stanza
        :param now: seconds since the Unix epoch
        :raises StoreError: nothing has changed
        """
        state, group = self._state, join.staged.state
        inviter = Member.of(join.staged.inviter, group.tree.member(join.staged.inviter))
        whole_tree = WholeTreeRecord(join.location.encode(), int(join.staged.inviter))
        same = record.group_id == group.group_id
        record = replace(record.as_member(group.group_id, group.epoch, now), state=MembershipState.PARTIAL)
        with state.change() as change:
            change.end_membership(Evidence.NO_STATE, keep_messages=same)
            change.begin_partial(PartialMembership(group, join.policy, whole_tree), join.group_info_key)
            self._end_waiting(change, group.own_leaf, join.bundle, now)
            change.put_record(record)
        return [JoinedPartially(state.room, group.epoch, inviter, group.tree.leaf_count)]

    def _end_waiting(self, change: Change, own_leaf: LeafNode, bundle: KeyPackageBundle | None, now: int) -> None:
        """What is over now that we are in: requests, an external Commit, the KeyPackage; our leaf's age begins."""
        change.delete_entry()
        self._requests.end(change, now)
        if bundle is not None:
            self._device.key_packages.use_up(change.transaction, bundle, now)
        own_age = LeafAge.arriving(own_leaf, now, last_resort=bundle is not None and bundle.last_resort)
        leaf_ages.put(change.transaction, self._state.spaces.renewed, self._device.identity, own_age)


def with_commits(record: RoomRecord, incoming: Incoming) -> RoomRecord:
    """A record that remembers the Commits of a stanza, too."""
    commits = b"".join(dict.fromkeys((*_marks(record.commits), *_commits_in(incoming))))
    return replace(record, commits=commits[-_COMMITS * _MARK :])


def _references(incoming: Incoming) -> list[bytes]:
    """The KeyPackageRefs that the Welcomes in a stanza are for, as far as they can be read."""
    references: list[bytes] = []
    for payload in incoming.payloads:
        with suppress(PeerError):
            if isinstance(payload, elements.WelcomeLocation):
                references += WelcomePlace.read(payload.data).new_members
            elif isinstance(payload, elements.Welcome):
                welcome = check_consistency(payload).body
                assert isinstance(welcome, Welcome)
                references += [entry.new_member for entry in welcome.secrets]
    return references


def _tree_location(info: UnverifiedGroupInfo) -> BlobReference | None:
    """Where the ratchet tree is, unless it is inside.

    :raises MalformedError: at no place from which it could be fetched
    """
    if any(extension.extension_type == ExtensionType.RATCHET_TREE for extension in info.extensions):
        return None
    location = RatchetTreeLocation.found_in(info.extensions)
    return None if location is None else location.blob


def _is_beside_its_commit(payload: elements.WelcomeLocation, incoming: Incoming) -> bool:
    """Whether the Commit that begins its epoch is in the same stanza."""
    commits = (each for each in incoming.payloads if isinstance(each, elements.AnyCommit))
    return any(each.group == payload.group and each.epoch + 1 == payload.epoch for each in commits)


def _commits_in(incoming: Incoming) -> list[bytes]:
    """Which epochs of which groups the Commits in a stanza would end."""
    return [
        sha256(payload.epoch.to_bytes(8, "big") + payload.group).digest()[:_MARK]
        for payload in incoming.payloads
        if isinstance(payload, elements.AnyCommit) and _says_what_it_is(payload)
    ]


def _says_what_it_is(commit: elements.AnyCommit) -> bool:
    """Whether attributes and content agree; else it is no Commit for anybody.  Of a location, members can tell."""
    if isinstance(commit, elements.CommitLocation):
        return True
    try:
        check_consistency(commit)
    except PeerError:
        return False
    return True


def _marks(octets: bytes) -> list[bytes]:
    return [octets[start : start + _MARK] for start in range(0, len(octets), _MARK)]
