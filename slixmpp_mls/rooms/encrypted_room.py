"""An encrypted room as a bot author has it in hand: members, adding, removing, sending."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slixmpp import JID, ClientXMPP
from slixmpp.stanza import Message

from ..client import Doubt, GroupChanged, Member, MessageReceived, Rejected
from ..client.storage.records import MembershipState
from ..errors import NotPermitted, PeerError, StanzaTooLarge, UsageError
from ..identity import ClientIdentity
from ..key_packages.selection import Candidates, find_candidates
from ..mls.structures.proposals import Add, AnyProposal, GroupContextExtensions, Remove
from ..mls.tree.tree_math import LeafIndex
from ..policy import RoomPolicy
from .affiliation_sync import AffiliationsDiffer, Standing
from .content import open_content, say_the_same, seal_body, seal_message
from .engine.handler_dispatch import hand_over
from .engine.reinit import reinitialize
from .engine.worker import RoomWorker
from .epoch_code import EpochComparison, compare_epochs, epoch_code
from .psk_link import branch, link

if TYPE_CHECKING:
    from ..plugin import MLS

__all__ = ["AddResult", "EncryptedRoom", "SentMessage"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AddResult:
    """What became of :meth:`EncryptedRoom.add`.

    :ivar added: the devices that are in the group now
    :ivar failed: reason for each account of which no device could be added
    :ivar skipped: reason for each device that could not, full identity
    """

    added: tuple[Member, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SentMessage:
    """A message on its way.

    :ivar origin_id: its id (XEP-0359), the same for everybody
    :ivar confirmed: future of its id in the room's archive; raises DeliveryError if the room refused it
    """

    origin_id: str
    confirmed: asyncio.Future[str] = field(repr=False)


class EncryptedRoom:
    """A room with an encrypted group in it.  The plugin makes them: `create`, `adopt`, `join`.

    Methods that wait may be bounded with :func:`asyncio.timeout`; what they have begun goes on.
    """

    def __init__(self, plugin: MLS, room: str, nick: str) -> None:
        self.plugin = plugin
        self.xmpp: ClientXMPP = plugin.xmpp
        self.worker = RoomWorker(
            plugin, room, nick, self._received, self._remove_client, self._went_live, self._expelled
        )
        self.session = self.worker.session
        self.invited: AddResult | None = None
        """What has become of those whom :meth:`MLS.create` should invite."""
        self.delivery = self.worker.delivery
        self._leaving = asyncio.Lock()
        self._standing = Standing(
            self.session,
            self.delivery.affiliations,
            lambda difference: plugin.fire("mls_affiliations_differ", difference),
            self.remove,
        )

    def __repr__(self) -> str:
        return f"<EncryptedRoom {self.room} {self.session.state.name}>"

    # --- what it is ----------------------------------------------------------------------------

    @property
    def room(self) -> str:
        """The room's bare JID."""
        return self.session.room

    @property
    def is_member(self) -> bool:
        """Whether we are in the group."""
        return self.worker.is_member

    @property
    def members(self) -> list[Member]:
        """Everybody in the group, device by device, ourselves included.

        :raises UsageError: we are not in the group
        """
        return self.plugin.context.with_levels(self.session.members())

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """The members for whom the Authentication Service does not vouch; see
        :mod:`slixmpp_mls.client.storage.doubts`."""
        return tuple(self.session.doubts.values())

    @property
    def accounts(self) -> list[str]:
        """Bare JIDs of everybody in the group, each once, sorted.

        :raises UsageError: we are not in the group
        """
        return sorted(self.session.roster.accounts())

    @property
    def epoch(self) -> int:
        """The number of the group's present epoch; every Commit begins another one."""
        return self.session.group.epoch

    @property
    def policy(self) -> RoomPolicy:
        """Who may do what."""
        return self.session.policy

    @property
    def epoch_authenticator(self) -> bytes:
        """RFC 9420 8.7: the same for two members exactly if they are in the same state of the group."""
        return self.session.group.epoch_authenticator

    @property
    def epoch_code(self) -> str:
        """The same for people: ``7: 12345 67890 ...``, the epoch and 40 digits; see :meth:`compare`.

        :raises UsageError: we are not in the group
        """
        return epoch_code(self.epoch, self.epoch_authenticator)

    def compare(self, code: str) -> EpochComparison:
        """Whether another member has been shown the same room as we: a server can split a group otherwise unnoticed.

        :param code: :attr:`epoch_code` of the other one, as it came by another way than this room
        :raises UsageError: it is no such code, or we are not in the group
        """
        return compare_epochs(self.epoch_code, code)

    @property
    def live(self) -> bool:
        """Whether we are in the room and have read all that is in its archive."""
        return self.worker.live.is_set()

    async def wait_live(self) -> None:
        """Wait until :attr:`live`."""
        await self.worker.live.wait()

    async def wait_joined(self) -> None:
        """Wait until we are in the group."""
        await self.worker.joined.wait()

    async def rejoin(self, *, external: bool = False) -> None:
        """Come back into the group; we are in it when this returns.

        A member that calls this throws away its keys first, with all messages that it has not read: for who has
        been told by :class:`~slixmpp_mls.client.LeftBehind` that it can not follow.  Whoever may add us replaces our
        old leaf;
        nobody need be online for the request.

        :param external: by a Commit of our own, where the group's policy allows it and the room shows a GroupInfo
        :raises UsageError: we have left, or were removed: see :meth:`.MLS.join`
        :raises NoGroupInfo: an external Commit can not be made at present
        :raises NotPermitted: the group's policy allows no external Commit of ours
        :raises DeliveryError: the room is lost
        """
        if self.is_member:
            self.worker.abandon("the application wants to come in afresh")
        elif self.session.state is MembershipState.OUT:
            raise UsageError(f"not a member of the group in {self.room}")
        if external:
            await self.worker.rejoiner.enter()
        else:
            self.worker.rejoiner.by_hand()
            await self.wait_joined()

    # --- talking -------------------------------------------------------------------------------

    async def send(self, content: str | Message) -> SentMessage:
        """Encrypt and send a text, or the content of a prepared message.

        Returns when the message is stored and, if we are in the room, on the stream; if we are not, it is
        sent later.  Nothing is ever sent in clear.

        A Message with an id that has been sent before, and the same content, is the same message: everybody sees it
        once.

        :param content: a text, or a Message whose elements (but for those meant for servers) are sent
        :raises UsageError: we are not in the group, there is nothing to send, or another message of ours is on its way
            under this id
        :raises NotVouchedFor: the Authentication Service denies a member that has come in
        :raises StanzaTooLarge: it would not fit into a stanza
        :raises StoreError: it could not be stored, and was not sent
        """
        self.session.group  # noqa: B018  # raises before anything is sealed
        account, now = self.xmpp.boundjid.bare, self.plugin.time()
        if isinstance(content, Message):
            data = seal_message(content, account, self.room, now)
            origin_id = content["id"] or None
            waiting = self.session.on_its_way(origin_id) if origin_id is not None else None
            if waiting is not None and say_the_same(waiting, data):
                data = waiting
        else:
            data = seal_body(content, account, self.room, now)
            origin_id = None
        return SentMessage(*await self.worker.send(data, origin_id))

    async def set_subject(self, subject: str) -> SentMessage:
        """Say what the room is about, to the members only; the room's own subject, in clear, is not touched.

        :raises NotPermitted: the group's policy does not let us
        :raises UsageError: as :meth:`send`
        """
        policy = self.policy
        if not policy.permits(policy.may_change_subject, self.xmpp.boundjid.bare, self.session.roster):
            raise NotPermitted("the group's policy does not let us change the subject")
        message = self.xmpp.make_message(mto=JID(self.room), mtype="groupchat")
        message["subject"] = subject
        return await self.send(message)

    def _received(self, event: MessageReceived) -> None:
        def done() -> None:
            self.worker.handed_over(event.number)

        try:
            message = open_content(self, event, self.plugin.time())
        except PeerError as error:
            self.plugin.fire("mls_rejected", Rejected(self.room, error, event.claimed, event.archive_id))
            done()
            return
        sent = None if message.sent is None else message.sent.timestamp()
        sender = message.sender
        if self.plugin.context.trust.take(sender.identity, sender.signature_key, message.message.xml, sent):
            done()
            return
        denied = message.doubt is not None and message.doubt.denied and not self.session.talks_to_anybody
        hand_over(self.xmpp, "mls_doubted_message" if denied else "mls_message", message, done)

    def deliver_again(self) -> None:
        """Hand over what was read before a restart and may not have come to the application.

        :raises StoreError: nothing was handed over
        """
        for event in self.session.not_handed_over():
            self._received(event)

    # --- changing the group --------------------------------------------------------------------

    async def add(self, *accounts: str) -> AddResult:
        """Add people, each with all devices: to the room, to the group, and send them an invitation.

        Who has no usable KeyPackage is named in the result; the others are added all the same.

        As many are added at once as fit into a stanza; a ratchet tree that would not fit with them is uploaded.

        :param accounts: bare JIDs, or full identities (``account/device``) of single devices
        :raises NotPermitted: the group's policy or the room forbids it
        :raises StanzaTooLarge: not even one fits, and our server has no upload service
        :raises DeliveryError: an upload has failed; who is in :attr:`members` has been added
        :raises UsageError: we are not in the group
        """
        self.session.group  # noqa: B018
        found = await find_candidates(self.plugin.context, self.session, accounts)
        self._check_may_add(found.accounts)
        await self.let_into_room(found)
        added: list[Member] = []
        batches = [list(found.packages)]
        while batches:
            batch = batches.pop(0)
            try:
                changed = await self.worker.commit(lambda batch=batch: self._adds(found, batch))  # type: ignore[misc]
            except StanzaTooLarge as error:
                if len(batch) < 2:
                    raise
                # As many at once as would have fitted, and some reserve: devices differ in size.
                share = int(len(batch) * 0.95 * error.limit / error.size)
                count = max(1, min(share, len(batch) - 1))
                batches[:0] = [batch[start : start + count] for start in range(0, len(batch), count)]
                continue
            if changed is not None:
                added += changed.added
                await self.worker.follow_up()
        return AddResult(tuple(added), found.failed, found.skipped)

    def _adds(self, found: Candidates, batch: Sequence[ClientIdentity]) -> list[AnyProposal] | None:
        roster = self.session.roster  # somebody else may have added one meanwhile
        wanted = [found.packages[client] for client in batch if roster.leaf_of(client) is None]
        return [Add(package.key_package) for package in wanted] or None

    def _check_may_add(self, accounts: Iterable[str]) -> None:
        """The Commit will be checked, too, but by then the room would have been changed."""
        own, policy = self.xmpp.boundjid.bare, self.policy
        others = [account for account in accounts if account != own or not policy.own_devices]
        if others and not policy.permits(policy.may_add, own, self.session.roster):
            raise NotPermitted(f"the group's policy does not let us add {', '.join(others)}")

    async def let_into_room(self, found: Candidates) -> None:
        """Affiliation first: who is added must be able to read the archive, where the Welcome is."""
        others = [account for account in found.accounts if account != self.xmpp.boundjid.bare]
        if not others:
            return
        affiliations = self.delivery.affiliations
        roles = await affiliations.all()
        for account in others:
            if roles.get(JID(account)) == "outcast":
                found.refuse(account, f"banned from {self.room}")
        outside = [account for account in others if JID(account) not in roles]
        try:
            await affiliations.grant_membership(outside)
        except NotPermitted:
            raise NotPermitted(f"only an admin of {self.room} can let in {', '.join(outside)}") from None

    async def remove(self, *accounts: str) -> tuple[Member, ...]:
        """Remove people, with all their devices, from the group and then from the room.

        :param accounts: bare JIDs, or full identities (``account/device``) of single devices
        :returns: who is no longer in the group
        :raises NotPermitted: the group's policy forbids it
        :raises UsageError: we are not in the group
        """
        self.session.group  # noqa: B018
        changed = await self.worker.commit(lambda: self._removes(accounts))
        removed = changed.removed if changed is not None else ()
        await self.worker.follow_up()  # who was removed loses the room
        seen_off = {self.xmpp.boundjid.bare, *(member.account for member in removed)}
        for account in dict.fromkeys(account.partition("/")[0] for account in accounts):
            if account not in seen_off and not (self.is_member and self.session.roster.has(account)):
                with suppress(NotPermitted):  # for an owner to do; the group is what counts
                    await self.delivery.affiliations.revoke_membership(account)
        return removed

    async def _remove_client(self, client: ClientIdentity) -> None:
        await self.remove(str(client))

    def _removes(self, accounts: Sequence[str]) -> list[AnyProposal] | None:
        roster, own = self.session.roster, self.session.group.own_index
        leaves: dict[int, None] = {}
        for account in accounts:
            bare, _, device = account.partition("/")
            if device:
                leaf = roster.leaf_of(ClientIdentity(bare, device))
                leaves.update({} if leaf is None else {leaf: None})
            else:
                leaves.update(dict.fromkeys(roster.leaves_of(bare)))
        return [Remove(leaf) for leaf in leaves if leaf != own] or None

    def _went_live(self) -> None:
        if not self.is_member:
            return
        if self.session.post_commit_actions.leave and not self._leaving.locked():
            self.worker.spawn(self.leave(), "leaving")
        self.worker.spawn(self.worker.vigilance.look_again(), "asking about members again")
        if self.session.leaf_outdated:
            self.worker.spawn(self.renew_leaf(), "renewing our leaf")
        if self._standing.may_expel(self.xmpp.boundjid.bare):
            self.worker.spawn(self._standing.look(self.xmpp.boundjid.bare), "comparing with the room's lists")

    async def _expelled(self, account: str) -> None:
        """Who has lost the room loses the group, by the hand of a member that may."""
        await self.worker.live.wait()
        own = self.xmpp.boundjid.bare
        if account != own and self._standing.may_expel(own) and self.session.roster.has(account):
            await self.worker.commit(lambda: self._removes([account]))
            await self._standing.look(own)

    async def affiliations_differ(self) -> AffiliationsDiffer:
        """Compare who may enter the room with who is in the group; see :mod:`.affiliation_sync`.

        :raises NotPermitted: the room does not show us who may
        :raises DeliveryError: no answer
        :raises UsageError: we are not in the group
        """
        self.session.group  # noqa: B018
        return await self._standing.difference()

    async def update(self) -> GroupChanged:
        """Renew our keys, so that whoever had got hold of them is locked out (RFC 9420 12.4).

        :raises UsageError: we are not in the group
        """
        changed = await self.worker.commit(list, force=True)
        assert changed is not None  # with `force` there is always something to do
        return changed

    async def renew_leaf(self) -> GroupChanged | None:
        """Bring our present credential and signature key into the group.

        :returns: None if they are there
        :raises UsageError: we are not in the group
        :raises NotPermitted: the group's policy demands another type of credential
        """
        self.session.group  # noqa: B018
        return await self.worker.commit(lambda: [] if self.session.leaf_outdated else None, force=True)

    async def link(self, source: EncryptedRoom) -> GroupChanged:
        """Mix a key of another group into this one, so that keys renewed there protect this one as well.

        See :mod:`.psk_link`.

        :param source: whose members include all of ours
        :raises UsageError: we are not in both, or a member (who is named) is not in the other one
        """
        return await link(self.worker, source.session)

    async def branch(
        self, room: str, *accounts: str, name: str | None = None, policy: RoomPolicy | None = None
    ) -> EncryptedRoom:
        """Make another room, with a group of some members of this one (RFC 9420 11.3).

        That they are members here is proved by a key of this group: nobody else could have been let in.

        :param room: bare JID of a room that does not exist
        :param accounts: bare JIDs of members, each with all of its devices that are in this group
        :param name: of the new room, for people
        :param policy: of the new group; by default we are the administrator
        :raises UsageError: an account, which is named, is no member; or we are none
        :raises SuiteUnsupported: an account, which is named, has no usable KeyPackage
        :raises StanzaTooLarge: these are too many to be added at once
        :raises DeliveryError: see :meth:`MLS.create`
        """
        return await branch(self, room, accounts, name, policy)

    async def reinit(self, suite: int | None = None) -> int | None:
        """Give the room a group of another cipher suite, with the same members (RFC 9420 11.2).

        Returns when the new group is there.  What is sent meanwhile goes to the new group.
        See :mod:`.engine.reinit`.

        :param suite: its number; if not given, the best one of ours that all members have
        :returns: the number of the new suite; None if all that everybody has is no better than the present one
        :raises SuiteUnsupported: a member, which is named, does not have the suite
        :raises NotPermitted: the group's policy does not let us
        :raises UsageError: we are not in the group, or do not have the suite
        """
        self.session.group  # noqa: B018
        return await reinitialize(self.worker, suite)

    @property
    def suite(self) -> int:
        """The number of the group's cipher suite.

        :raises UsageError: we are not in the group
        """
        return self.session.group.suite.id

    async def set_policy(self, policy: RoomPolicy) -> GroupChanged | None:
        """Replace the group's policy.

        :returns: None if it is the same
        :raises NotPermitted: the present one forbids it
        :raises UsageError: we are not in the group
        """

        def change() -> list[AnyProposal] | None:
            if self.policy == policy:
                return None
            return [GroupContextExtensions(policy.replaced_in(self.session.group.context.extensions))]

        return await self.worker.commit(change)

    async def leave(self, patience: float = 20.0) -> None:
        """Leave the group, and then the room.

        A member can not remove itself: when all that it has sent is in the room, it asks, and another one commits
        it.  After `patience` seconds (nobody may be online) our keys are deleted all the same; the request stays in
        the archive.  If the program is stopped meanwhile, it goes on at the next start.

        If we are not in the room at the moment, this is done when we are, after a restart as well.

        :param patience: seconds
        :raises UsageError: we are not in the group
        :raises StoreError: the wish could not be stored
        """
        async with self._leaving:
            await self._leave(patience)

    async def _leave(self, patience: float) -> None:
        self.session.want_to_leave()
        if self.delivery.inside:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self.wait_live()  # we have just come in, perhaps
                    await self.worker.all_said()
                    await self._ask_to_go()
        to_be_asked = self.is_member and len(self.session.roster) > 1
        if to_be_asked and not self.delivery.inside and self.worker.lost is None:
            return
        await self.plugin.forget(self)
        if self.is_member:
            self.worker.give_up()

    async def finish_leaving(self, patience: float = 20.0) -> None:
        """What :meth:`leave` had begun when the program was stopped."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.wait_live()
        async with self._leaving:
            if self.is_member:
                await self._leave(patience)
            else:
                await self.plugin.forget(self)

    async def _ask_to_go(self) -> None:
        """Propose our own removal, anew in every epoch that begins without it, until we are out or alone."""
        while self.is_member and len(self.session.roster) > 1:
            await self.worker.until_open()
            self.worker.moved_on.clear()
            outgoing = self.session.propose(Remove(LeafIndex(self.session.group.own_index)), self.plugin.now)
            await self.worker.transmit(outgoing)
            await self.worker.moved_on.wait()
