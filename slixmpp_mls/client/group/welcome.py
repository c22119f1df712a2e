"""Coming into the group: by a Welcome for a KeyPackage of ours (RFC 9420 12.4.3.1), or with our own external Commit.

::

    <welcome/> ──► _find_welcome ── tree fetched, leaves judged ──┐
    our external Commit, reflected (:mod:`.external_commit`) ────────────┴─► _arrive ──► we are in

Of a Welcome's GroupInfo first only its claims are judged: that it is the group and epoch that its element names, of
this room, and neither another room's group nor an epoch in which we have been.  If the ratchet tree is elsewhere it has
to be fetched next.  Then signature, tree and leaves are verified.

Whether the Commit beside a Welcome is valid only members can tell.  But one that came second has lost (rule 1), and its
Welcome would lead where nobody else goes.  So while we are outside we remember which epochs of which groups have
been ended by a Commit in the room: what comes beside a later one for the same epoch does not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256

from ...errors import InvalidError
from ...identity import ClientIdentity
from ...mls.group.group import Group
from ...mls.group.joining import UnverifiedGroupInfo
from ...mls.registry import ExtensionType
from ...mls.structures.welcome import Welcome
from ...mls.tree.leaf_creation import KeyPackageBundle
from ...policy import RoomPolicy
from ...policy.roster import Roster
from ...stanza import elements
from ...stanza.blob import BlobReference, RatchetTreeLocation
from ...stanza.consistency import check as check_consistency
from ..events import CommitLost, Event, GroupContinued, Joined
from ..member import Member
from ..storage.doubts import Doubt, Doubts
from ..storage.post_commit_actions import PostCommitActions
from ..storage.records import MembershipState, OutboxKind, RoomRecord
from .actions import Ignore, Incoming, Join, Step
from .continuation import Creating
from .external_commit import Entering
from .resumption_psks import OtherGroups
from .room_state import put_all, put_changes

__all__ = ["Joining"]

_RULES = "urn:xmpp:mls:0 business rules"

_MARK = 16  # octets that stand for a group and an epoch
_COMMITS = 64  # of them remembered: a Commit that loses comes soon after the one that wins


class Joining(Entering, Creating):
    """A room's group, and how we get into it."""

    # --- which Commits count -------------------------------------------------------------------

    def _came_second(self, incoming: Incoming) -> bool:
        """Whether a Commit in the stanza is for an epoch that another one has ended before, while we are outside."""
        seen = _marks(self._record.commits)
        return any(each in seen for each in _commits_in(incoming))

    def _with_commits(self, record: RoomRecord, incoming: Incoming) -> RoomRecord:
        """Our record, with the Commits of a stanza."""
        commits = b"".join(dict.fromkeys((*_marks(record.commits), *_commits_in(incoming))))
        return replace(record, commits=commits[-_COMMITS * _MARK :])

    # --- the Welcome ---------------------------------------------------------------------------

    def _find_welcome(self, incoming: Incoming, others: OtherGroups) -> Step | None:
        for payload in incoming.payloads:
            if not isinstance(payload, elements.Welcome):
                continue
            welcome = check_consistency(payload).body
            assert isinstance(welcome, Welcome)
            with self._store.transaction() as transaction:
                references = [entry.new_member for entry in welcome.secrets]
                bundle = self.device.find_bundle(transaction, references)
            if bundle is not None:
                return self._examine_welcome(incoming, payload, welcome, bundle, others)
        return None

    def _examine_welcome(
        self,
        incoming: Incoming,
        payload: elements.Welcome,
        welcome: Welcome,
        bundle: KeyPackageBundle,
        others: OtherGroups,
    ) -> Step:
        info = Group.peek(welcome, bundle, psks=others.psk, groups=others.group)
        context = info.group_context
        if (context.group_id, context.epoch) != (payload.group, payload.epoch):
            raise InvalidError("a Welcome to another group or epoch than its element says", _RULES)
        policy = RoomPolicy.required_in(context.extensions)
        if policy.room != self.room:
            raise InvalidError("a Welcome to the group of another room", _RULES)
        with self._store.transaction() as transaction:
            self._check_group_id_is_new(transaction, context.group_id)
            self._check_epoch_is_new(transaction, context.group_id, context.epoch)
        if incoming.tree is None and (location := _tree_location(info)) is not None:
            return Step(incoming, Ignore(), tree_at=location)
        # The GroupInfo, of which only claims have been judged so far, is verified here.
        staged = Group.join(
            welcome,
            bundle,
            tree=incoming.tree,
            psks=others.psk,
            groups=others.group,
            identify=ClientIdentity.from_leaf,
            parameters=self.device.parameters,
        )
        state = staged.state
        roster = Roster.of(state.members())
        leaves = tuple(leaf for index, leaf in state.members() if index != state.own_index)
        return Step(incoming, Join(staged, bundle, roster, policy), leaves)

    # --- arriving ------------------------------------------------------------------------------

    def _accept_join(self, action: Join, record: RoomRecord, now: int, judged: Iterable[Doubt]) -> list[Event]:
        state = action.staged.state
        assert isinstance(state, Group)
        inviter = Member.of(action.staged.inviter, state.tree.member(action.staged.inviter))
        return self._arrive(state, action.roster, action.policy, record, now, judged, inviter, action.bundle)

    def _arrive(
        self,
        state: Group,
        roster: Roster,
        policy: RoomPolicy,
        record: RoomRecord,
        now: int,
        judged: Iterable[Doubt],
        inviter: Member | None = None,
        bundle: KeyPackageBundle | None = None,
    ) -> list[Event]:
        """We are in the group: by a Welcome for a KeyPackage of ours, or by our own Commit."""
        # Unsent application data was meant for the group's members: it stays if this is the same group.
        followed = self._group is not None and self._group.closed is not None
        same = followed or record.group_id == state.group_id
        owed = self._owed if followed else PostCommitActions()
        missed = self._missed(record)
        record = replace(
            record,
            state=MembershipState.MEMBER,
            group_id=state.group_id,
            joined=now,
            joined_epoch=state.epoch,
            commits=b"",
        )
        doubts = Doubts(judged)
        with self._transaction() as transaction:
            gone = self._clear(transaction, keep_messages=same)
            carried = self._carry_over(transaction) if followed else []
            put_all(transaction, self._spaces.owed, owed.entries)
            put_all(transaction, self._spaces.group, state.pieces())
            put_changes(transaction, self._spaces.doubt, dict(doubts.changes_since(Doubts())))
            seen = self._inside_again(transaction, b"" if bundle is None else bundle.reference)
            if bundle is not None:
                self.device.use_up(transaction, bundle, now)
            self._put_own_age(transaction, state, now, last_resort=bundle is not None and bundle.last_resort)
            self._put_record(transaction, record)
        events: list[Event] = [
            CommitLost(self.room, waiting.origin_id.decode(), "we were removed, and added afresh")
            for _, waiting in self._void()
            if waiting.kind is OutboxKind.COMMIT and not waiting.refused
        ]
        self._begin(state.stored(), roster, policy, record, doubts)
        self._outside, self._entry = seen, None
        self._owed = owed
        self._outbox.remove_all(gone)
        self._outbox.put_all(carried)
        if followed and inviter is not None:
            return [*events, GroupContinued(self.room, state.epoch, inviter, state.suite.id)]
        return [*events, Joined(self.room, state.epoch, inviter, missed)]


def _tree_location(info: UnverifiedGroupInfo) -> BlobReference | None:
    """Where the ratchet tree is, unless it is inside.

    :raises MalformedError: at no place from which it could be fetched
    """
    if any(extension.extension_type == ExtensionType.RATCHET_TREE for extension in info.extensions):
        return None
    location = RatchetTreeLocation.found_in(info.extensions)
    return None if location is None else location.blob


def _commits_in(incoming: Incoming) -> list[bytes]:
    """Which epochs of which groups the Commits in a stanza would end."""
    return [
        sha256(payload.epoch.to_bytes(8, "big") + payload.group).digest()[:_MARK]
        for payload in incoming.payloads
        if isinstance(payload, elements.Commit)
    ]


def _marks(octets: bytes) -> list[bytes]:
    return [octets[start : start + _MARK] for start in range(0, len(octets), _MARK)]
