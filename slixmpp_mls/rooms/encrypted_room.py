"""The application's room object: members, adding, removing, sending.

:class:`EncryptedRoom` is a thin facade: :mod:`.membership`, :mod:`.leaving`, :mod:`.affiliation_sync` and the parts of
:mod:`.engine` do the work.  It asks the :class:`Registry` about other rooms.  The module is longer than others because
it is a reference: most of it is the docstrings of the public methods.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Protocol
from xml.etree import ElementTree as ET

from slixmpp import JID, ClientXMPP
from slixmpp.stanza import Message

from ..client import Doubt, GroupChanged, JoinRequested, Member, MessageReceived
from ..client.group.certainty import names
from ..client.group.resumption_psks import Awaited
from ..client.storage.records import MembershipState
from ..delivery.files import Files, ReportProgress
from ..errors import NotPermitted, RoomLost, UsageError
from ..identity import ClientIdentity
from ..policy import RoomPolicy
from ..runtime import Context
from ..stanza.file_sharing import Disposition
from ..stanza.xml import is_xml_text
from .affiliation_sync import AffiliationsDiffer
from .content import say_the_same, seal_body, seal_message
from .engine.outage import Outage
from .engine.sender import SentMessage
from .engine.worker import RoomWorker
from .epoch_code import EpochComparison, EpochHistory, compare_epochs, epoch_code
from .files import RoomFiles
from .leaving import LEAVE_TIMEOUT, Leaving
from .membership import AddResult, MembershipChanges, RemoveResult
from .policy_change import PolicyChange
from .psk_link import link
from .rich import Reference, RoomReferences, correction, retraction
from .signals import Signals

__all__ = ["AddResult", "EncryptedRoom", "Registry", "RemoveResult", "SentMessage"]


class Registry(Protocol):
    """What a room asks the rest of the client for; implemented by :class:`.registry.Rooms`."""

    def reached(self, awaited: Awaited) -> Awaitable[None]:
        """Wait until a room is in an epoch that another room needs, or will not reach it."""

    def received(self, room: EncryptedRoom, event: MessageReceived) -> None:
        """Hand a message to the application."""

    def next_try(self, room: EncryptedRoom) -> float | None:
        """Seconds until a lost room is tried again; None: it is not."""

    def forget(self, room: EncryptedRoom) -> Awaitable[None]:
        """Stop reading a room."""

    def abandon(self, room: EncryptedRoom) -> Awaitable[None]:
        """Stop reading a room, and delete its group's keys, or wait no longer for a way into the group."""

    def discard(self, room: EncryptedRoom, alternate: str | None, reason: str | None) -> Awaitable[None]:
        """See :meth:`EncryptedRoom.destroy`."""

    def branch(
        self, source: EncryptedRoom, room: str, accounts: Sequence[str], name: str | None, policy: RoomPolicy | None
    ) -> Awaitable[EncryptedRoom]:
        """See :meth:`EncryptedRoom.branch`."""


class EncryptedRoom:
    """A room with an encrypted group in it.  The plugin makes these objects: `create`, `adopt`, `join`.

    Waiting methods may be bounded with :func:`asyncio.timeout`; operations already begun continue.
    """

    def __init__(self, context: Context, registry: Registry, room: str, nick: str) -> None:
        self._context = context
        self._registry = registry
        self.worker = worker = RoomWorker(
            context,
            room,
            nick,
            received=lambda event: registry.received(self, event),
            remove=self._remove_client,
            went_live=self._went_live,
            expelled=lambda account: self.membership.expelled(account),
            requested=lambda request: self.membership.requested(request),
            reached=registry.reached,
            ephemeral=lambda shown: self._signals.shown(shown),
            next_try=lambda: registry.next_try(self),
        )
        self.xmpp: ClientXMPP = context.xmpp
        self.group = worker.parts.group
        """The MLS group on this device."""
        self.muc = worker.parts.muc
        """The room on the server."""
        self.files = RoomFiles(self.xmpp, Files(context.uploads), room, context.fire)
        """Sends files to the room, and fetches them."""
        self.references = RoomReferences(self.group, context.device.store, context.fire)
        """The messages that other messages can refer to."""
        self._signals = Signals(worker.parts, self.references)
        self.membership = MembershipChanges(worker.parts, worker.committer, worker.post_commit)
        self.leaving = Leaving(worker, lambda: registry.forget(self), lambda: registry.abandon(self))
        self._policy_change = PolicyChange(worker.parts.group, worker.checks, worker.committer)
        self._epochs = EpochHistory()
        self.invited: AddResult | None = None
        """The result for the accounts that :meth:`MLS.create` should invite."""

    def __str__(self) -> str:
        return self.jid

    def __repr__(self) -> str:
        return f"<EncryptedRoom {self.jid} {self.group.state.name}>"

    # --- properties ----------------------------------------------------------------------------

    @property
    def jid(self) -> str:
        """The room's bare JID."""
        return self.group.room

    @property
    def is_member(self) -> bool:
        """Whether we are in the group, as a full member, and its room is not :attr:`lost`; see also :attr:`partial`."""
        return self.group.is_member and self.lost is None

    @property
    def partial(self) -> bool:
        """Whether we are in a large group and do not have its ratchet tree yet (``mls_joined_partially``).

        We send, and read the messages of those that were proved to us; :attr:`members` names these.  All that follows a
        stanza that only a full member can judge waits for the tree, which is fetched meanwhile.  Methods that change
        the group wait for it, too.
        """
        return self.group.is_partial

    @property
    def members(self) -> list[Member]:
        """All members of the group, device by device, ourselves included; while :attr:`partial`, those proved to us.

        :raises UsageError: we are not in the group
        """
        return self._context.with_levels(self.group.members.all())

    @property
    def own_account(self) -> str:
        """Our bare JID."""
        return self._context.device.identity.account

    @property
    def partner(self) -> str | None:
        """In a conversation of two: the bare JID of the other account; None if it is a room.

        It stays so if the room is :attr:`lost`.  See :mod:`.conversations`.
        """
        if not self.group.is_member:
            return None
        partner = self.policy.partner_of(self.own_account)
        return partner if partner and {*self.accounts} <= {partner, self.own_account} else None

    @property
    def is_administrator(self) -> bool:
        """Whether our account is an administrator of the group's policy."""
        return self.is_member and self.policy.is_administrator(self.own_account, self.group.roster)

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """The members for whom the Authentication Service does not vouch; see
        :mod:`slixmpp_mls.client.storage.doubts`.

        While :attr:`partial`, of those who were proved to us; it is asked about them when they speak.
        """
        return self.group.members.all_doubts()

    @property
    def accounts(self) -> list[str]:
        """Bare JIDs of all accounts in the group, each once, sorted; while :attr:`partial`, those proved to us.

        :raises UsageError: we are not in the group
        """
        if self.partial:
            return sorted({member.account for member in self.group.members.all()})
        return sorted(self.group.roster.accounts())

    @property
    def epoch(self) -> int:
        """The number of the group's current epoch; every Commit begins another one."""
        return self.group.speaking.epoch

    @property
    def policy(self) -> RoomPolicy:
        """The group's policy: the rights of each account."""
        return self.group.policy

    @property
    def epoch_authenticator(self) -> bytes:
        """RFC 9420 8.7: equal for two members exactly if they are in the same state of the group."""
        return self.group.speaking.epoch_authenticator

    @property
    def epoch_code(self) -> str:
        """The same in human-readable form: ``7: 12345 67890 ...``, the epoch and 40 digits; see :meth:`compare`.

        :raises UsageError: we are not in the group
        """
        return epoch_code(self.epoch, self.epoch_authenticator)

    def compare(self, code: str) -> EpochComparison:
        """Whether another member has been shown the same room as we: otherwise a server can split a group unnoticed.

        :param code: :attr:`epoch_code` of the other member, received by another way than this room
        :raises UsageError: it is no such code, or we are not in the group
        """
        return compare_epochs(self.epoch_code, code)

    @property
    def lost(self) -> RoomLost | None:
        """Why the room does not let us in (destroyed, banned ...), None if it does, or may.

        Then :attr:`is_member` is false, and nothing can be sent.  What is known of the group stays readable
        (:attr:`members`), and its state stays until the application calls :meth:`leave`, or :meth:`.MLS.create` for the
        same room: a server's statement about a room is no reason to delete keys.  `alternate` names the room that
        follows, if the destroyer of this one has named it; :meth:`.MLS.follow` goes there.  A room that was not
        destroyed is tried again from time to time, and is not lost any more when it lets us in (:mod:`.lost_rooms`);
        :attr:`outage` says when.
        """
        reason = self.worker.progress.lost
        return reason if isinstance(reason, RoomLost) else None

    @property
    def outage(self) -> Outage | None:
        """Why the room cannot be entered or read at present, since when, and when it is tried again; None if it can.

        ``mls_outage`` reports the first reason, each change of it, and the end.  While our own connection is broken, it
        stays as it was.
        """
        return self.worker.outage.present

    @property
    def unsure(self) -> tuple[str, ...]:
        """Why we do not know whether our epoch is the group's; empty if we know.  See :class:`~.client.Unsure`."""
        return names(self.group.certainty.reasons)

    @property
    def live(self) -> bool:
        """Whether we are in the room and have read its whole archive."""
        return self.worker.progress.live.is_set()

    async def wait_live(self) -> None:
        """Wait until :attr:`live`.

        :raises MLSError: the room is lost
        """
        await self.worker.progress.until_live()

    async def wait_joined(self) -> None:
        """Wait until we are in the group, as a full member.

        :raises MLSError: the room is lost
        """
        self.worker.progress.check_not_lost()
        await self.worker.progress.until_joined()

    async def rejoin(self, *, external: bool = False, despite_doubts: bool = False) -> None:
        """Return to the group; we are in it when this method returns.

        A member that calls this deletes its keys first, and so loses all messages that it has not read.  It is meant
        for a client that cannot follow, as :class:`~slixmpp_mls.client.LeftBehind` reports.  Any member that may add us
        replaces our old leaf; no member need be online for the request.

        A client that has been in the group judges by its last state where it is led.  If the group was split, and our
        side has to give way and has its only administrator, nobody can prove to us where the others are.  Only our own
        user can decide to believe any of the members of our last state all the same; one of them that is hostile can
        lead us into a group of its own.

        :param external: by a Commit of our own, where the group's policy allows it and the room shows a GroupInfo
        :param despite_doubts: follow whichever member of our last state adds us, until we are in the group again
        :raises UsageError: we have left, or were removed: see :meth:`.MLS.join`
        :raises NoGroupInfo: an external Commit is impossible at present
        :raises NotPermitted: the group's policy allows no external Commit of ours
        :raises DeliveryError: the room is lost
        """
        if self.group.state is MembershipState.OUT:  # whether or not the room has shut us out meanwhile
            raise UsageError(f"not a member of the group in {self.jid}")
        self.worker.progress.check_not_lost()
        if self.group.returning and not despite_doubts:  # the proving GroupInfo leads back; our state stays until then
            self.worker.rejoiner.by_hand()
            self.worker.recovery.news()
            await self.worker.progress.until_sure()
            return
        if (
            self.group.continuation.left_out and not despite_doubts
        ):  # likewise: we ask to be added to the group that follows
            self.worker.rejoiner.by_hand()
            await self.worker.progress.until_open()
            return
        if self.is_member or self.partial:
            self.worker.abandon("the application wants to come in afresh")
        if despite_doubts and self.group.state is MembershipState.LOST:
            self.group.lifecycle.believe_despite_doubts()
        if external:
            await self.worker.rejoiner.join_externally()
        else:
            self.worker.rejoiner.by_hand()
            await self.wait_joined()

    # --- sending -------------------------------------------------------------------------------

    def noted_epochs(self) -> EpochHistory:
        """The codes of the epochs that we have been in, including the current one."""
        if self.group.room_state.speaking is not None:
            group = self.group.speaking
            self._epochs.note(group.group_id, group.epoch, group.epoch_authenticator)
        return self._epochs

    async def send(self, content: str | Message) -> SentMessage:
        """Encrypt and send a text, or the content of a prepared message.

        Returns when the message is stored and, if we are in the room, written to the stream; otherwise it is sent
        later.  Nothing is ever sent in clear.

        A Message with an id that has been sent before, and the same content, is the same message: every member sees it
        once.

        :param content: a text, or a Message whose elements (except those meant for servers) are sent
        :raises UsageError: we are not in the group, there is nothing to send, or another message of ours is in transit
            under this id
        :raises NotVouchedFor: the Authentication Service denies a member that has joined
        :raises StanzaTooLarge: it would not fit into a stanza
        :raises StoreError: it could not be stored, and was not sent
        """
        if not isinstance(content, str | Message):
            raise UsageError(f"a text (str) or a slixmpp Message is sent, not {type(content).__name__}")
        if not content and isinstance(content, str):
            raise UsageError("an empty text: there is nothing to send")
        if isinstance(content, str) and not is_xml_text(content):
            raise UsageError("the text has a character that XML cannot hold, such as a control character: remove it")
        self.group.room_state.require_speaking()  # before anything is sealed
        account, now = self._context.device.identity.account, self._context.time()
        epochs = self.noted_epochs().to_tell()
        if isinstance(content, Message):
            data = seal_message(content, account, self.jid, now, epochs)
            origin_id = content["id"] or None
            waiting = self.group.sending.on_its_way(origin_id) if origin_id is not None else None
            if waiting is not None and say_the_same(waiting, data):
                data = waiting
        else:
            data = seal_body(content, account, self.jid, now, epochs)
            origin_id = None
        sent = await self.worker.sender.send(data, origin_id)
        self.references.remember(sent.origin_id, account)
        return sent

    async def typing(self, active: bool = True) -> bool:
        """Show the members that we are typing, or have stopped; they get ``mls_typing``.

        It is encrypted, not stored anywhere, and lost if it is lost.  Nothing is sent by itself.  The same state is not
        sent twice within five seconds.

        :returns: whether it was sent; False if we are not in the group or the room, are behind or unsure, or are silent
            because the Authentication Service denies a member
        """
        return await self._signals.typing(active)

    async def displayed(self, about: Reference) -> bool:
        """Show the members that we have read a message and all before it; they get ``mls_marker``.

        :param about: see :meth:`EncryptedMessage.displayed`
        :returns: as of :meth:`typing`
        """
        return await self._signals.displayed(about)

    def message_with(self, element: ET.Element, text: str | None = None) -> Message:
        """A message to this room with an element, as an argument of :meth:`send`."""
        message = self.xmpp.make_message(mto=JID(self.jid), mbody=text, mtype="groupchat")
        message.xml.append(element)
        return message

    async def correct(self, sent: SentMessage, text: str) -> SentMessage:
        """Replace the text of a message of ours (XEP-0308): the others receive it as ``mls_correction``.

        :param sent: the result of :meth:`send`
        :raises: as :meth:`send`
        """
        if not isinstance(text, str) or not text:
            raise UsageError("a correction needs a text; retract(sent) takes a message back")
        return await self.send(self.message_with(correction(self._own(sent)), text))

    async def retract(self, sent: SentMessage) -> SentMessage:
        """Ask all members to forget a message of ours (XEP-0424): the others receive it as ``mls_retraction``.

        Recipients can keep the message; nothing can be taken back from a recipient.

        :param sent: the result of :meth:`send`
        :raises: as :meth:`send`
        """
        return await self.send(self.message_with(retraction(self._own(sent))))

    async def _until_full(self) -> None:
        """While we lack the ratchet tree, wait for it.

        :raises UsageError: we are not in the group
        :raises MLSError: the room is not read any more
        """
        if self.partial:
            self.worker.whole_tree.require()
        await self.worker.progress.until(lambda: not self.partial)
        self.group.require_member()
        self.worker.progress.check_not_lost()

    def _own(self, sent: SentMessage) -> Reference:
        if not isinstance(sent, SentMessage):
            raise UsageError(f"which message? Give what send() returned, not {type(sent).__name__}")
        return Reference(sent.origin_id, self.own_account, known=True)

    async def send_file(
        self,
        content: str | Path | bytes,
        *,
        caption: str | None = None,
        name: str | None = None,
        media_type: str | None = None,
        disposition: Disposition | None = None,
        progress: ReportProgress | None = None,
    ) -> SentMessage:
        """Encrypt a file, upload it to our server's upload service (XEP-0363), and send its location to the members.

        Files of any size are processed in pieces.  ``mls_file_progress`` reports the progress.  See :mod:`.files`.

        :param content: its path, or its octets
        :param caption: a text about it
        :param name: its file name; that of its path if not given
        :param media_type: derived from its name if not given
        :param disposition: ``"inline"`` shows it with the message, ``"attachment"`` only on demand; if not given,
            pictures are inline
        :param progress: called with the number of octets sent, and the total
        :raises UsageError: there is no such file, or as :meth:`send`
        :raises NoUploadService: our server has none
        :raises BlobTooLarge: for the service
        :raises DeliveryError: it could not be uploaded, or as :meth:`send`
        :raises OSError: it cannot be read
        """
        self.group.room_state.require_speaking()
        message = await self.files.message_with(
            content, caption=caption, name=name, media_type=media_type, disposition=disposition, progress=progress
        )
        return await self.send(message)

    async def set_subject(self, subject: str) -> SentMessage:
        """Set the room's subject for the members only; the room's own subject, in clear, does not change.

        :raises NotPermitted: the group's policy does not let us
        :raises UsageError: as :meth:`send`
        """
        await self._until_full()
        policy = self.policy
        if not policy.permits(policy.may_change_subject, self._context.device.identity.account, self.group.roster):
            raise NotPermitted("the group's policy does not let us change the subject")
        if not isinstance(subject, str):
            raise UsageError(f"a subject is a text, not {type(subject).__name__}")
        message = self.xmpp.make_message(mto=JID(self.jid), mtype="groupchat")
        message["subject"] = subject
        return await self.send(message)

    # --- changing the group --------------------------------------------------------------------

    async def add(self, *accounts: str) -> AddResult:
        """Add accounts, each with all devices: to the room, to the group, and send them an invitation.

        The result names the accounts and single devices that cannot be added; the others are added nevertheless.
        Accounts are queried in parallel, for 20 seconds at most.

        A new device of an account that is in the group already is added only with a voucher by a device of the account
        in the group, or if it is named: the account's server alone cannot bring it in.  `unvouched` in the result names
        the devices that were added without a voucher.

        One Commit adds as many as fit into a stanza; a ratchet tree that would not fit with them is uploaded.

        :param accounts: bare JIDs, or full identities (``account/device``) of single devices, in any spelling
        :raises NotPermitted: the group's policy or the room forbids it
        :raises StanzaTooLarge: not even one fits, and our server has no upload service
        :raises DeliveryError: an upload has failed; the accounts in :attr:`members` have been added
        :raises UsageError: we are not in the group
        """
        await self._until_full()
        return await self.membership.add(accounts)

    async def grant(self, request: JoinRequested) -> AddResult:
        """Add the one device that asks by an ``mls_join_requested``, and no other device of its account.

        If the device has a leaf in the group, whose keys it has lost, the same Commit removes that leaf; this needs
        the right to remove.  If it has come in, or renewed its leaf, since it asked (`leaf` of the request), nothing is
        done, and the result's `failed` says so.

        Its KeyPackage comes from the directory, and the Authentication Service is asked about it, as with :meth:`add`:
        the grant is for the name, and the Authentication Service decides which key has that name.

        :raises UsageError: the request is for another room, or we are not in the group
        :raises: as :meth:`add`
        """
        if request.room != self.jid:
            raise UsageError(f"a request to come into {request.room}, not {self.jid}")
        await self._until_full()
        return await self.membership.grant(request)

    async def invite(self, account: str) -> None:
        """Repeat the invitation of an account that is in the group and has not joined the room.

        The first invitation may be lost.  Whoever has added the account repeats it by itself
        (:mod:`.engine.repeated_invitations`).  An invitation that arrives twice counts once.  A device whose KeyPackage
        has been deleted meanwhile asks by itself to be added again.

        :param account: bare JID, in any spelling
        :raises UsageError: we, or they, are not in the group, or it is no address
        :raises Disconnected: there is no stream
        :raises DeliveryError: our server has not accepted it
        """
        await self._until_full()
        await self.membership.invite(account)

    async def remove(self, *accounts: str) -> RemoveResult:
        """Remove accounts, with all their devices, from the group and then from the room.

        :param accounts: bare JIDs, or full identities (``account/device``) of single devices, in any spelling
        :returns: the clients that are no longer in the group; its `failed` names the addresses without a removed client
        :raises NotPermitted: the group's policy forbids it for all of them
        :raises UsageError: we are not in the group
        """
        await self._until_full()
        return await self.membership.remove(accounts)

    async def _remove_client(self, client: ClientIdentity) -> None:
        await self.remove(str(client))

    def _went_live(self) -> None:
        if not self.is_member:
            return
        self.leaving.go_on()
        spawn = self.worker.parts.spawn
        spawn(self.worker.checks.look_again(), "asking about members again")
        self.worker.checks.ask_on()
        if self.group.sending.leaf_outdated:
            spawn(self.renew_leaf(), "renewing our leaf")
        self.membership.went_live()
        self.worker.reinitializer.look_for_better_suite()

    async def affiliations_differ(self) -> AffiliationsDiffer:
        """Compare the room's affiliations with the group's members; see :mod:`.affiliation_sync`.

        :raises NotPermitted: the room does not show us its lists
        :raises DeliveryError: no answer
        :raises UsageError: we are not in the group
        """
        await self._until_full()
        return await self.membership.affiliations.difference()

    async def update(self) -> GroupChanged:
        """Renew our keys: anyone holding stolen ones can read nothing sent afterwards (RFC 9420 12.4).

        :raises UsageError: we are not in the group
        """
        await self._until_full()
        changed = await self.worker.committer.commit(list, force=True)
        assert changed is not None  # with `force` a Commit is always made
        return changed

    async def renew_leaf(self) -> GroupChanged | None:
        """Bring our current credential and signature key into the group.

        :returns: None if they are there
        :raises UsageError: we are not in the group
        :raises NotPermitted: the group's policy demands another type of credential
        """
        await self._until_full()
        return await self.worker.committer.commit(lambda: [] if self.group.sending.leaf_outdated else None, force=True)

    async def link(self, source: EncryptedRoom) -> GroupChanged:
        """Mix a key of another group into this one, so that keys renewed there protect this one as well.

        See :mod:`.psk_link`.

        :param source: a room whose members include all of ours
        :raises UsageError: we are not in both, or a member (which is named) is not in the other one
        """
        await self._until_full()
        return await link(self.group, source.group, self.worker.committer.commit)

    async def branch(
        self, room: str, *accounts: str, name: str | None = None, policy: RoomPolicy | None = None
    ) -> EncryptedRoom:
        """Make another room, with a group of some members of this one (RFC 9420 11.3).

        A key of this group proves that they are members here: no other client could have been let in.  That works
        after this room is :attr:`lost` as well.

        :param room: bare JID of a room that does not exist
        :param accounts: bare JIDs of members, each with all of its devices that are in this group
        :param name: of the new room, for people
        :param policy: of the new group; by default we are the administrator
        :raises UsageError: an account, which is named, is no member; or we are none
        :raises SuiteUnsupported: an account, which is named, has no usable KeyPackage
        :raises StanzaTooLarge: these are too many to be added at once
        :raises DeliveryError: see :meth:`MLS.create`
        """
        if self.partial:
            self.worker.whole_tree.require()
        await self.worker.progress.until(lambda: not self.partial)  # also of a room that is gone: its keys are there
        return await self._registry.branch(self, room, accounts, name, policy)

    async def reinit(self, suite: int | None = None) -> int | None:
        """Give the room a group of another cipher suite, with the same members (RFC 9420 11.2).

        Returns when the new group exists.  Messages sent meanwhile go to the new group.
        See :mod:`.engine.reinit`.

        :param suite: its number; if not given, the best one of ours that all members have
        :returns: the number of the new suite; None if no suite that all members have is better than the current one
        :raises SuiteUnsupported: a member, which is named, does not have the suite
        :raises NotPermitted: the group's policy does not let us
        :raises UsageError: we are not in the group, or do not have the suite
        """
        await self._until_full()
        return await self.worker.reinitializer.reinitialize(suite)

    @property
    def suite(self) -> int:
        """The number of the group's cipher suite.

        :raises UsageError: we are not in the group
        """
        return self.group.speaking.suite.id

    @property
    def post_quantum(self) -> bool:
        """Whether what is recorded of the group today stays closed to quantum computers.

        It concerns secrecy: suites with Ed25519 do not keep a quantum computer from signing in a member's name.

        :raises UsageError: we are not in the group
        """
        return self.group.speaking.suite.secrecy_is_post_quantum

    async def set_policy(self, policy: RoomPolicy, *, despite_doubts: bool = False) -> GroupChanged | None:
        """Replace the group's policy.

        All clients that a new administrator has in the group get its rights.  The Authentication Service is asked about
        them before.

        :param despite_doubts: name administrators although it does not vouch for all their clients
        :returns: None if it is the same
        :raises AdministratorInDoubt: it does not; nothing has changed
        :raises NotPermitted: the current policy forbids it
        :raises UsageError: we are not in the group
        """
        if not isinstance(policy, RoomPolicy):
            raise UsageError(f"a policy is a RoomPolicy, not {type(policy).__name__}")

        await self._until_full()
        return await self._policy_change.set(policy, despite_doubts=despite_doubts)

    async def leave(self, patience: float = LEAVE_TIMEOUT, *, all_devices: bool = True) -> None:
        """Leave the group, and then the room, with all devices of our account.

        A member cannot remove itself.  When all its messages are in the room, it proposes its removal, and another
        member commits the proposal.  After `patience` seconds (no other member may be online) our keys are deleted
        nevertheless; the proposal stays in the archive.  If the program is stopped meanwhile, leaving continues at the
        next start.

        If we are not in the room at the moment, leaving happens when we are, after a restart as well.  A room that is
        :attr:`lost` is left at once, and so is one to whose group we do not come, or come back: nobody is asked to add
        us any more.  If somebody does even so, we follow only after another invitation.

        The room itself stays, even if nobody is in the group any more; :meth:`destroy` ends it.

        Where the policy does not let an account remove its own devices (`own_devices`), the others stay until they
        leave by themselves.

        :param patience: seconds
        :param all_devices: False: only this device leaves
        :raises UsageError: we are not in the group, and do not wait for it
        :raises StoreError: the wish could not be stored
        """
        await self.leaving.leave(patience, all_devices=all_devices)

    async def destroy(self, alternate: str | None = None, reason: str | None = None) -> None:
        """Destroy the room, with its archive, for everybody (XEP-0045 10.9), and delete our keys of its group.

        The others get ``mls_room_lost``; their keys stay until they leave.  To move a group, :meth:`branch` it to
        another room, and name that as `alternate`.  Prosody gives a destroyed room's address to nobody for a while.

        :param alternate: bare JID of the room that takes its place, for :meth:`.MLS.follow` of the others
        :param reason: for people; it is not encrypted
        :raises UsageError: `alternate` is no address of a room, or `reason` has characters that XML cannot hold
        :raises NotPermitted: we do not own the room
        :raises DeliveryError: refused or unanswered; nothing has changed
        :raises StoreError: the room is destroyed, and the keys are not deleted: call :meth:`leave`
        """
        self.worker.progress.check_not_lost()
        await self._registry.discard(self, alternate, reason)
