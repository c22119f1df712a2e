"""Changes our relation to a room's group independently of its stanzas: creates it, gives it up, waits for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ...errors import UsageError, suite_name
from ...mls.crypto.cipher_suite import CipherSuite
from ...mls.group.group import Group
from ...mls.parameters import DAY
from ...policy import RoomPolicy, group_extensions
from ..device import Device
from ..events import Event, GroupLost, RemovedFromGroup
from ..storage import leaf_ages
from ..storage.doubts import Doubts
from ..storage.leaf_ages import LeafAge
from ..storage.post_commit_actions import ALL_DEVICES, Invite, Invited, Leave, OpenSuite, PostCommitActions
from ..storage.records import FormerKeyRecord, InvitedRecord, Known, MembershipState, OutsideRecord, RoomRecord
from .evidence import Evidence
from .group_info_key import GroupInfoKey
from .room_contents import Membership
from .room_state import RoomState

__all__ = ["FORMER_KEY_AGE", "Lifecycle"]

FORMER_KEY_AGE = 7 * DAY
"""Seconds for which a former return key is kept: by then, the halves of a split group have found together."""


class Lifecycle:
    """The beginning and the end of a membership."""

    def __init__(self, device: Device, state: RoomState) -> None:
        self._device = device
        self._state = state
        self._before_creation: tuple[RoomRecord, OutsideRecord] | None = None

    def create(self, suite: int, policy: RoomPolicy, now: int, *, suite_is_open: bool = False) -> None:
        """Make the room's group, with us alone in it.

        :param suite: number of the cipher suite
        :param now: seconds since the Unix epoch
        :param suite_is_open: whether the first people who are added decide on another one
        :raises UsageError: we are in a group here already, the policy is another room's, or it demands a
            certificate that we do not have
        :raises StoreError: nothing has changed
        """
        self._state.require_no_member()
        actions = PostCommitActions({OpenSuite.key: b""} if suite_is_open else {})
        self._found(suite, policy, now, Evidence.NO_STATE, actions)

    @property
    def is_unseen(self) -> bool:
        """Whether we are in a group of which nobody else can know anything, and nothing of it is on its way."""
        membership = self._state.membership
        return membership is not None and not self._state.outbox and _is_alone(membership)

    @property
    def suite_is_open(self) -> bool:
        """Whether the first people who are added decide on the cipher suite: nobody has chosen one, or knows ours.

        It can be changed as soon as nothing is on its way (:attr:`is_unseen`).
        """
        membership = self._state.membership
        return membership is not None and membership.actions.suite_is_open and _is_alone(membership)

    def change_suite(self, suite: int, now: int) -> None:
        """Make the room's group anew, with another cipher suite and the same policy.

        :param suite: number of the cipher suite
        :param now: seconds since the Unix epoch
        :raises UsageError: others may know the group (:attr:`is_unseen`), or as with :meth:`create`
        :raises StoreError: nothing has changed
        """
        membership = self._state.require_member()
        if not self.is_unseen:
            raise UsageError("a group that others know keeps its cipher suite; see reinit()")
        self._found(suite, membership.view.policy, now, Evidence.WISH, membership.actions)

    def _found(self, suite: int, policy: RoomPolicy, now: int, evidence: Evidence, actions: PostCommitActions) -> None:
        device, state = self._device, self._state
        if policy.room != state.room:
            raise UsageError(f"a policy for {policy.room}, not for {state.room}")
        if not policy.allows_suite(suite):
            raise UsageError(f"the policy demands a post-quantum cipher suite, which {suite_name(suite)} is not")
        if not policy.accepts(device.credential(CipherSuite.get(suite))):
            raise UsageError("the policy demands X.509 credentials, and this device has no certificate for the suite")
        bundle = device.key_packages.make(CipherSuite.get(suite), now)
        group = Group.create(
            bundle,
            device.random(32),
            extensions=group_extensions(policy),
            parameters=device.parameters,
            random=device.random,
        )
        record = state.record.as_member(group.group_id, 0, now)
        own_age = LeafAge.arriving(group.own_leaf, now, last_resort=False)
        with state.change() as change:
            change.end_membership(evidence, keep_messages=False)
            change.begin_membership(Membership.of(group, Doubts(), actions), GroupInfoKey.of(group))
            leaf_ages.put(change.transaction, state.spaces.renewed, device.identity, own_age)
            change.put_record(record)

    def give_up(self, reason: str | None = None) -> list[Event]:
        """Delete the group's keys, because our own user wants it.

        :param reason: the reason to rejoin: application data without a reflection is then kept, and sent when we are
            back in the same group; None if we leave for good
        :raises UsageError: we are not in the group
        :raises StoreError: nothing has changed
        """
        state, after = self._state, self._state.cursor
        if reason is None:
            state.forget_group(replace(state.record, state=MembershipState.OUT), Evidence.WISH)
            return [RemovedFromGroup(state.room, None, wanted=True)]
        state.forget_group(replace(state.record, state=MembershipState.LOST), Evidence.WISH, keep_messages=True)
        return [GroupLost(state.room, reason, after)]

    def believe_despite_doubts(self) -> None:
        """Let any confirmed client of the last state that we had of the group lead us back, whatever its rights.

        This holds until we are in the group again.  It is for our own user to decide
        (:mod:`slixmpp_mls.policy.later_state`).

        :raises UsageError: we have not lost the group
        :raises StoreError: nothing has changed
        """
        if self._state.standing is not MembershipState.LOST:
            raise UsageError(f"the group in {self._state.room} is not lost")
        with self._state.change() as change:
            change.believe_despite_doubts()

    def want_to_leave(self, *, all_devices: bool = False) -> None:
        """Record that we want to leave, until we have left.

        :param all_devices: whether our account's other devices are to leave with us
        :raises UsageError: we are not in the group
        :raises StoreError: nothing has changed
        """
        self._state.require_member()
        with self._state.change() as change:
            change.put_actions({Leave.key: ALL_DEVICES if all_devices else b""})

    def done(self, keys: Iterable[bytes]) -> None:
        """Delete pending actions outside of the group that are done.

        :param keys: keys of these actions
        :raises StoreError: nothing has changed
        """
        self._put_actions(dict.fromkeys(keys))

    def invited(self, accounts: Mapping[str, InvitedRecord]) -> None:
        """Record that these accounts have been invited.

        :raises StoreError: nothing has changed
        """
        changes: dict[bytes, bytes | None] = {}
        for account, record in accounts.items():
            changes[Invite(account, None).key] = None
            changes[Invited(account).key] = record.encode()
        self._put_actions(changes)

    def _put_actions(self, changes: Mapping[bytes, bytes | None]) -> None:
        if self._state.membership is not None and changes:
            with self._state.change() as change:
                change.put_actions(changes)

    def tidy(self, now: int) -> None:
        """Delete the keys of ended epochs (RFC 9420 9.2) and former return keys whose retention time is over.

        :param now: seconds since the Unix epoch
        :raises StoreError: nothing has changed
        """
        self._forget_former_keys(now)
        speaking = self._state.speaking
        if speaking is not None:
            group = speaking.group.forget_past(now=now)
            if group is not speaking.group:
                with self._state.change() as change:
                    change.put_speaking(group)

    def _forget_former_keys(self, now: int) -> None:
        state = self._state
        with state.store.transaction() as transaction:
            old = [
                name
                for name, value in transaction.items(state.spaces.former)
                if abs(now - FormerKeyRecord.decode(value).replaced) >= FORMER_KEY_AGE
            ]
        if old:
            with state.change() as change:
                for name in old:
                    change.forget_former_key(name)

    # --- while we are outside ------------------------------------------------------------------

    def seek(self, cursor: str | None) -> None:
        """Set our place in the room before anything is read from it, for example to just before a Welcome.

        :raises UsageError: we are in the group, and a member must read every stanza
        :raises StoreError: nothing has changed
        """
        self._seek(cursor, self._state.standing)

    def expect_welcome(self, cursor: str | None, group: bytes = b"") -> None:
        """Look for a Welcome after this place in the room, now and after a restart, because we have been invited.

        :param group: id of the group there, as the inviter says; empty if we do not know
        :raises UsageError: we are in the group
        :raises StoreError: nothing has changed
        """
        standing = self._state.standing
        if standing is MembershipState.FOUNDING and self._state.has_lost_group:
            standing = MembershipState.LOST  # to make another one has failed, or was not gone on with
        stays = standing in (MembershipState.LOST, MembershipState.PARTIAL)
        self._seek(cursor, standing if stays else MembershipState.INVITED, group)

    def expect_group(self, group: bytes, inviter: str = "", sender: str = "") -> None:
        """Accept, of the Welcomes in the room, those into groups that invitations name.

        Without any call, every Welcome for a KeyPackage of ours is accepted; but a client that is out of the group, and
        has not been invited anew, accepts only one back into the group that has removed it.  A client that has lost the
        group judges a Welcome by what it knows, and this changes nothing.

        :param group: group id that an invitation names
        :param inviter: account (a bare JID) that must have let us in; empty if the invitation does not say who has
        :param sender: account (a bare JID) that has sent the invitation, if it is another one
        :raises StoreError: nothing has changed
        """
        if self._state.speaking is None and group:
            with self._state.change() as change:
                change.expect(group, inviter, sender or inviter)

    def choose_inviter(self, account: str) -> None:
        """Accept only Welcomes that invitations of one account name; until one comes, only those by that account.

        :param account: bare JID; empty: those of all accounts count again
        :raises StoreError: nothing has changed
        """
        if self._state.speaking is None:
            with self._state.change() as change:
                change.choose_inviter(account)

    def _seek(self, cursor: str | None, standing: MembershipState, group: bytes = b"") -> None:
        state = self._state
        if state.membership is not None:
            raise UsageError("a member does not skip what is in the room")
        with state.change() as change:
            if state.partial is not None and not state.partial.set_aside:
                change.put_place(state.record.cursor)
            change.put_record(replace(state.record, state=standing, cursor=(cursor or "").encode(), commits=b""))
            if standing is not MembershipState.LOST:  # of a group that we have lost, our epoch is still known
                told = group or (state.outside.group_id if state.outside.known == Known.TOLD else b"")
                if told:
                    asks = state.outside.asks_in(told)
                    outside = replace(state.outside, group_id=told, suite=0, epoch=0, known=Known.TOLD, asks=asks)
                    change.put_outside(outside)
                else:
                    change.put_outside(replace(state.outside, known=Known.NOTHING))

    def begin_creation(self) -> bool:
        """We are about to make a room, or a group in one.

        :returns: whether we were already when we were stopped, so that the room may be there
        :raises UsageError: we are in a group here already
        :raises StoreError: nothing has changed
        """
        self._state.require_no_member()
        before = self._state.standing is MembershipState.FOUNDING
        if not before:
            self._before_creation = self._state.record, self._state.outside
        self._become(MembershipState.FOUNDING)
        return before

    def end_creation(self) -> None:
        """Record that the creation has failed: a group that we had lost before is still lost.

        :raises StoreError: nothing has changed
        """
        state = self._state
        if state.standing is not MembershipState.FOUNDING:
            return
        if not state.has_lost_group:
            self._stay_out()
            return
        record, outside = self._before_creation or (state.record, state.outside)
        with state.change() as change:
            change.put_record(replace(record, state=MembershipState.LOST))
            change.put_outside(outside)

    def want_in(self) -> None:
        """Our own user wants into the group that we are out of, so we wait for a Welcome as if invited.

        :raises StoreError: nothing has changed
        """
        if self._state.standing is MembershipState.OUT:
            self._become(MembershipState.INVITED)

    def stop_waiting(self) -> None:
        """Stop waiting for a Welcome.

        :raises StoreError: nothing has changed
        """
        if self._state.standing is MembershipState.INVITED:
            self._stay_out()

    def want_out(self) -> None:
        """Our own user wants neither a Welcome nor the way back into a group that we have lost, whose last keys go.

        :raises StoreError: nothing has changed
        """
        if self._state.standing in (MembershipState.INVITED, MembershipState.LOST):
            self._stay_out()

    def _stay_out(self) -> None:
        """Record that we are not in the group; of a room whose group we have never been in, nothing is kept.

        Except when we may ask there again to be added.
        """
        state = self._state
        with state.change() as change:
            change.expect_nothing()
            change.end_membership(Evidence.NO_STATE, keep_messages=False)
            change.delete_entry()
            change.put_return_keys(0, ())
            change.forget_known()
            change.put_outside(state.outside.pace())
            if state.record.joined or state.record.group_id:
                change.put_record(replace(state.record, state=MembershipState.OUT))
            else:
                change.delete_record()

    def _become(self, standing: MembershipState) -> None:
        with self._state.change() as change:
            change.put_record(replace(self._state.record, state=standing))


def _is_alone(membership: Membership) -> bool:
    """Whether we have made the group, and nobody has joined it yet."""
    return membership.group.epoch == 0 and len(membership.view.roster) == 1
