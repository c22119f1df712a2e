"""Observes a room's group from outside, and asks to be added to it (RFC 9420 12.1.8).

A client that has lost the group, or was never in it, cannot verify the messages that it sees.  It reads the room
nevertheless, and derives three things.

*The group.*  For a former member it is the group that it was in, or one that seems to follow that group after a ReInit.
For other clients it is the group of the latest ``<commit/>`` in the room.

*The epoch.*  A Commit ends its epoch, so the group is in the next one.  Any other message shows that the group is in
the message's epoch.  The highest number counts, because messages arrive late and many Commits lose to others.  An
outsider may have sent a number that is too high.  Our request then has no effect, and the next genuine message, which
has a lower epoch, corrects the number.  A client that was invited may find no stanza of the group in the room, because
the archive has a hole.  It does not know the epoch, and asks in epoch 0; a member that may add it afresh considers
the request whatever its epoch is (:mod:`slixmpp_mls.rooms.engine.readmission`).

*The time of the request.*  A client asks once in an epoch, with pauses that grow from seconds to an hour; the store
keeps them.  The request is a new member's Add of a fresh KeyPackage with our own signature key.  It needs no
answer: it waits in the archive for any member that may commit it.  The same Commit removes our old leaf, if there is
one.  No key of the old state is used again, because all keys of the new leaf are new.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...errors import PeerError, UsageError
from ...mls.crypto.cipher_suite import CipherSuite, SignaturePrivateKey
from ...mls.group.external_join import external_proposal
from ...mls.parameters import DAY
from ...mls.structures.framing import NewMemberProposalSender
from ...mls.structures.leaf_node import KeyPackageSource
from ...mls.structures.proposals import Add
from ...mls.tree.leaf_creation import Completion
from ...policy import derive_return_key
from ...stanza import elements
from ...stanza.consistency import check as check_consistency
from ...store.interface import Transaction
from ..device import Device
from ..device.leaf_proofs import arriving
from ..events import Missed
from ..storage.records import AskRecord, Known, MembershipState, OutboxKind, OutsideRecord, RoomRecord
from .actions import Incoming, Outgoing
from .room_change import Change
from .room_state import RoomState

__all__ = ["PAUSES", "JoinRequests", "attempted"]

PAUSES = (5, 20, 80, 320, 1280, 3600)
"""Seconds after the first request, the second ..., until the next one may be made: six in the first hour."""
_ASKS = 8  # requests remembered, with the private keys in them
_LAST_EPOCH = 2**64 - 1


class JoinRequests:
    """Observes a room's group from outside, and makes our requests to be added to it."""

    def __init__(self, device: Device, state: RoomState) -> None:
        self._device = device
        self._state = state

    @property
    def attempts(self) -> int:
        """The number of our consecutive requests to be added."""
        return self._state.outside.attempts

    @property
    def epoch_seen(self) -> int | None:
        """The epoch in which the group seems to be, while we are outside."""
        outside = self._state.outside
        return outside.epoch if outside.known and (self._state.membership is None or self._state.coming_back) else None

    @property
    def rest_on_key(self) -> bool:
        """Whether our way into the group needs the signature key that we have now.

        mls-policy, "Proofs of Admission": a return is proved with the key of the leaf that we have lost.
        """
        return self._state.standing is MembershipState.LOST or self._state.coming_back

    # --- observing -----------------------------------------------------------------------------

    def observed(self, incoming: Incoming) -> OutsideRecord:
        """Our knowledge of the group after a stanza.

        :raises StoreError: the store failed
        """
        seen = self._state.outside
        for payload in incoming.payloads:
            if not isinstance(payload, elements.AnyCommit | elements.Proposal | elements.Application):
                continue
            try:
                if not isinstance(payload, elements.CommitLocation):
                    check_consistency(payload)
            except PeerError:
                continue
            if payload.epoch == _LAST_EPOCH:
                continue  # no group comes that far, and here it stands for none
            begins = payload.epoch == 0 and any(
                isinstance(beside, elements.Welcome | elements.WelcomeLocation) and beside.group == payload.group
                for beside in incoming.payloads
            )
            seen = self._observe(seen, payload, begins)
        return seen

    def _observe(
        self, seen: OutsideRecord, payload: elements.AnyCommit | elements.Proposal | elements.Application, begins: bool
    ) -> OutsideRecord:
        if payload.group != seen.group_id:
            changes = self._state.membership is None and (begins or self._may_change(seen))
            if not isinstance(payload, elements.AnyCommit) or not changes:
                return seen
            others = seen.asks_in(payload.group)
            seen = replace(seen, group_id=payload.group, known=Known.NOTHING, suite=0, asks=others)
        if isinstance(payload, elements.Proposal) and any(ask.message == payload.data for ask in seen.asks):
            asks = (replace(ask, arrived=1) if ask.message == payload.data else ask for ask in seen.asks)
            return replace(seen, asks=tuple(asks))
        if isinstance(payload, elements.Application) and self._state.standing is MembershipState.LOST:
            seen = replace(seen, missed=seen.missed + 1)
        epoch = payload.epoch
        if isinstance(payload, elements.AnyCommit):
            if seen.known == Known.SEEN and epoch < seen.epoch:
                return seen  # it came second, or late
            return replace(seen, epoch=epoch + 1, known=Known.SEEN)
        in_vain = any(ask.epoch == seen.epoch and ask.arrived for ask in seen.asks)
        if seen.known != Known.SEEN or epoch > seen.epoch or (epoch < seen.epoch and in_vain):
            return replace(seen, epoch=epoch, known=Known.SEEN)
        return seen

    def _may_change(self, seen: OutsideRecord) -> bool:
        """Whether any Commit of another group tells which group the room has now.

        A former member knows better: the room's group changes only by a ReInit, and the group that follows begins
        with a creation, a Commit and its Welcome (RFC 9420 11.2).  That one may be forged.  So after it the latest
        Commit counts, as for everybody who never was in.
        """
        if self._state.standing is not MembershipState.LOST:
            return True
        with self._state.store.transaction() as transaction:
            return transaction.get(self._state.spaces.ended, seen.group_id) is None

    # --- asking --------------------------------------------------------------------------------

    def asking_at(self, now: int) -> int | None:
        """Time at which we may ask to be added, seconds since the Unix epoch; None until a stanza changes it."""
        seen, standing = self._state.outside, self._state.standing
        outside = standing in (MembershipState.LOST, MembershipState.INVITED) or self._state.coming_back
        if not outside or not seen.known or not self._suites():
            return None
        if any(ask.epoch == seen.epoch and self._is_present(ask, now) for ask in seen.asks):
            return None
        return self.may_try_at(now)

    def _is_present(self, ask: AskRecord, now: int) -> bool:
        """Whether a request is as we would make it: it is valid, has our signature key, and a voucher if we have one.

        The clock may have been ahead when it was made, our key replaced since, or a device may have vouched for us.
        """
        longest = self._device.settings.lifetime + self._device.parameters.clock_tolerance
        if not now < ask.until <= now + longest:
            return False
        suites = map(CipherSuite.get, self._suites())
        if not any(self._device.signature_key(suite).public in ask.message for suite in suites):
            return False
        found = [voucher for suite in self._suites() for voucher in self._device.vouchers(CipherSuite.get(suite), now)]
        return not found or any(voucher.encode() in ask.message for voucher in found)

    def may_try_at(self, now: int) -> int:
        """The time of the next permitted attempt to join, by any way, in seconds since the Unix epoch."""
        not_before = self._state.outside.not_before
        return not_before if not_before - now <= 2 * PAUSES[-1] else now  # the clock was set back

    def _suites(self) -> tuple[int, ...]:
        """Our cipher suites that the group may have."""
        ours, suite = self._device.suites, self._state.outside.suite
        return ours if not suite else tuple(one for one in ours if one == suite)

    def ask(self, now: int, *, jitter: float = 1.0) -> list[Outgoing]:
        """Make requests to be added; they are stored when this returns.

        There is one request, or one for each of our cipher suites if we do not know the group's.  Only the one for the
        group's suite has an effect.

        :param jitter: factor for the pause until the next request
        :raises UsageError: it is too early; see :meth:`asking_at`
        :raises StoreError: nothing has changed
        """
        due = self.asking_at(now)
        if due is None or now < due:
            raise UsageError("it is not the time to ask")
        seen, keys = self._state.outside, self._proving()
        with self._state.change() as change:
            made = [self._make_ask(change.transaction, CipherSuite.get(suite), keys, now) for suite in self._suites()]
            asks = (*seen.asks, *made)
            given_up = (old.reference for old in asks[:-_ASKS])
            self._device.key_packages.withdraw(change.transaction, given_up, now)
            change.put_outside(attempted(replace(seen, asks=asks[-_ASKS:]), now, jitter))
        return [self._as_outgoing(ask) for ask in made]

    def _proving(self) -> list[SignaturePrivateKey]:
        """The return keys for our next request, the likeliest first; :data:`.MAX_PROOFS` of them fit into it.

        A Commit that has answered an earlier request of ours may be missing from what the room has shown to us, with
        its Welcome.  Our leaf in the tree is then that request's.  So later requests prove return by the key of the
        leaf that we have lost, by that of the latest request, and by two of the others in turn.
        """
        kept = list(self._state.return_keys)
        if (partial := self._state.partial) is not None:  # whose state has its own
            kept = [derive_return_key(partial.group.suite, partial.group.own_leaf_key), *kept]
        with self._state.store.transaction() as transaction:
            asked = [
                derive_return_key(bundle.suite, bundle.leaf_key)
                for ask in reversed(self._state.outside.asks)
                if (bundle := self._device.key_packages.find(transaction, (ask.reference,))) is not None
            ]
        if not asked:
            return kept
        others = [*kept[1:], *asked[1:]]
        turn = 2 * (self._state.outside.attempts - 1) % len(others) if others else 0
        return [*kept[:1], asked[0], *others[turn:], *others[:turn]]

    def _make_ask(
        self, transaction: Transaction, suite: CipherSuite, keys: Sequence[SignaturePrivateKey], now: int
    ) -> AskRecord:
        seen = self._state.outside
        bundle = self._device.key_packages.make(suite, now, complete=self._completion(suite, keys, now))
        source = bundle.key_package.leaf_node.source
        assert isinstance(source, KeyPackageSource)
        self._device.key_packages.keep_unpublished(transaction, bundle)
        message = external_proposal(
            suite,
            seen.group_id,
            seen.epoch,
            NewMemberProposalSender(),
            Add(bundle.key_package),
            self._device.signature_key(suite),
        )
        origin_id = str(uuid.uuid4()).encode()
        return AskRecord(seen.epoch, origin_id, message, bundle.reference, source.lifetime.not_after, 0)

    def _completion(self, suite: CipherSuite, keys: Sequence[SignaturePrivateKey], now: int) -> Completion:
        """The proofs that admit our leaf: of return to the group that we have lost, and vouchers."""
        keys = [key for key in keys if key.scheme.name == suite.signature.name]
        group_id = self._state.outside.group_id
        return arriving(suite, group_id, keys=keys, vouchers=self._device.vouchers(suite, now))

    def _as_outgoing(self, ask: AskRecord) -> Outgoing:
        payload = elements.Proposal(self._state.outside.group_id, ask.epoch, ask.message)
        return Outgoing(ask.origin_id.decode(), OutboxKind.PROPOSAL, (payload,))

    def unconfirmed(self) -> Iterator[Outgoing]:
        """Requests to be sent again: the room has not reflected them, and they may still have an effect."""
        seen = self._state.outside
        inside = self._state.membership is not None and not self._state.coming_back
        if not inside and self._state.standing is not MembershipState.OUT:
            for ask in seen.asks:
                if ask.epoch == seen.epoch and not ask.arrived:
                    yield self._as_outgoing(ask)

    def refused(self, origin_id: str) -> None:
        """Note that the room has refused a message.  A request is not sent again in this epoch.

        :raises StoreError: nothing has changed
        """
        name, seen = origin_id.encode(), self._state.outside
        if any(ask.origin_id == name for ask in seen.asks):
            asks = (replace(ask, arrived=1) if ask.origin_id == name else ask for ask in seen.asks)
            with self._state.change() as change:
                change.put_outside(replace(seen, asks=tuple(asks)))

    # --- coming back ---------------------------------------------------------------------------

    def missed(self, record: RoomRecord) -> Missed | None:
        """The messages that we have lost if we return by the stanza of this record."""
        if self._state.standing is not MembershipState.LOST:
            return None
        outside = self._state.outside
        return Missed(outside.after.decode() or None, record.cursor.decode(), outside.missed)

    def end(self, change: Change, now: int) -> None:
        """End all requests because we have joined, and keep the times of our requests.

        :param now: seconds since the Unix epoch
        """
        asked = (ask.reference for ask in self._state.outside.asks)
        self._device.key_packages.withdraw(change.transaction, asked, now)
        change.put_outside(self._state.outside.pace())


def attempted(seen: OutsideRecord, now: int, jitter: float) -> OutsideRecord:
    """Our knowledge after another attempt to join, which delays the next one."""
    attempts = 1 + (seen.attempts if abs(now - seen.asked) < DAY else 0)
    pause = int(PAUSES[min(attempts, len(PAUSES)) - 1] * jitter)
    return replace(seen, attempts=attempts, asked=now, not_before=now + pause)
