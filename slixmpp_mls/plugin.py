"""The slixmpp plugin ``mls``: the face of the package for the author of a bot.

::

    xmpp.register_plugin("mls", {"store": "alice.db"})
    mls = xmpp.plugin["mls"]
    await mls.ready()
    room = await mls.create("coven@rooms.example")
    await room.add("bob@example")
    await room.send("Fair is foul")

The module is longer than others because it is a reference: half of it is the docstrings of the public methods, which
forward to the parts.  The other half is the life of a client: sessions, and the order of the parts.

The second argument of ``register_plugin`` is the configuration: :mod:`.runtime.settings` lists what can be set.
Events of slixmpp's tell what happens in the rooms: :mod:`.runtime.events` lists them, and says what a program can rely
on if it is killed at any point.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from slixmpp import ClientXMPP
from slixmpp.plugins import BasePlugin
from slixmpp.stanza import Presence

from .account.certificate_renewal import CertificateRenewal
from .account.devices import OwnDevices
from .account.key_rotation import KeyRotated, KeyRotation
from .account.maintenance import Maintenance
from .account.own_entry import OwnEntry
from .account.trust import Trust, trust_of, with_manual_trust
from .authentication import AuthenticationService, DeviceListService
from .authentication.callbacks import Recent
from .client import Device
from .delivery import DeviceDirectory, KeyPackageDirectory, Stream, Uploads
from .errors import DeviceRetired, Disconnected, LoginFailed, NodeUnusable, UsageError
from .identity import typed_address
from .key_packages.cipher_suite_choice import Negotiation
from .key_packages.publication import Publication
from .policy import RoomPolicy
from .rooms.alternate_venue import follow_alternate
from .rooms.conversations import Conversations
from .rooms.decrypted_message import keep_in
from .rooms.encrypted_room import EncryptedRoom
from .rooms.invitations import Invitations
from .rooms.registry import Rooms, room_address
from .rooms.undecided_invitations import UndecidedInvitation
from .runtime import Context, Settings, SteadyClock, Tasks
from .runtime.client_store import ClientStore
from .runtime.connection import LoginWatch
from .runtime.question_budget import QuestionBudget
from .runtime.settings import DEFAULTS
from .runtime.tasks import UNREACHABLE
from .stanza import NS
from .stanza import slixmpp as bindings

__all__ = ["MLS"]

log = logging.getLogger(__name__)

_USED = 10_000  # KeyPackageRefs that are remembered


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a running client, in the order in which they are built: each needs only those before it."""

    context: Context
    publication: Publication
    rooms: Rooms
    conversations: Conversations
    own_entry: OwnEntry
    devices: OwnDevices
    rotation: KeyRotation
    certificates: CertificateRenewal
    trust: Trust
    maintenance: Maintenance


class MLS(BasePlugin):
    """Messaging Layer Security for rooms."""

    name = "mls"
    description = "Messaging Layer Security (RFC 9420) for rooms"
    dependencies: ClassVar[set[str]] = {
        "xep_0004",  # forms, for configuring nodes and rooms
        "xep_0030",
        "xep_0045",
        "xep_0060",
        "xep_0115",
        "xep_0163",
        "xep_0198",
        "xep_0199",
        "xep_0359",
    }
    default_config: ClassVar[dict[str, Any]] = DEFAULTS
    xmpp: ClientXMPP
    _own_service: DeviceListService | None = None  # slixmpp calls `session_bind` before `plugin_init` within a session

    @classmethod
    def of(cls, bot: ClientXMPP) -> MLS:
        """The plugin of a client.

        :raises UsageError: it is not registered
        """
        plugin = bot.plugin.get(cls.name, None)
        if not isinstance(plugin, cls):
            raise UsageError('the plugin is not registered: bot.register_plugin("mls", {"store": "bot.db"})')
        return plugin

    # --- life cycle ----------------------------------------------------------------------------

    def plugin_init(self) -> None:
        """
        :raises UsageError: the configuration is wrong; see :mod:`.runtime.settings`
        """
        self.settings = settings = Settings.of(self.config)
        self.clock = SteadyClock(settings.clock)
        self.tasks = Tasks(lambda error: self.fire("mls_failed", error))
        bindings.register()
        self.directory = KeyPackageDirectory(self.xmpp)
        self.uploads = Uploads(self.xmpp, allow_url=settings.allow_url)
        self._node = DeviceDirectory(self.xmpp)
        given = settings.authentication
        if given is None or callable(given):
            self._own_service = DeviceListService(self._node, clock=self.clock.time)
            self._service = given(self._own_service) if given is not None else self._own_service
        else:
            self._service = given
        self._store = ClientStore(settings)
        self._parts: Parts | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._stopped: DeviceRetired | None = None
        self._invitations = Invitations(self.xmpp, self.tasks, settings.accept_invitation, self.ready)
        self._login = LoginWatch(self.xmpp, self._login_failed)
        self._told_of_certificate = False
        self.xmpp.add_filter("out", keep_in)
        self.xmpp.add_event_handler("session_start", self._session_started)
        self.xmpp.add_event_handler("session_resumed", self._session_resumed)
        self.xmpp.add_event_handler("presence_available", self._presence_received)
        if self.xmpp.session_bind_event.is_set():  # registered within a session, as by a plugin of a client
            if self._own_service is not None:
                self._own_service.start()
            self.xmpp.loop.call_soon(self._begin_within_session)

    def _begin_within_session(self) -> None:
        self._session_started(None)
        self._invitations.session_under_way()

    def session_bind(self, jid: object) -> None:
        # slixmpp keeps features by address, so they are announced once there is one; presence comes later.
        self.xmpp.plugin["xep_0030"].add_feature(NS)
        if self._own_service is not None:
            self._own_service.close()  # what was told while we were away is lost
            self._own_service.start()

    def plugin_end(self) -> None:
        self.xmpp.del_filter("out", keep_in)
        self._invitations.close()
        self._login.close()
        self.xmpp.del_event_handler("session_start", self._session_started)
        self.xmpp.del_event_handler("session_resumed", self._session_resumed)
        self.xmpp.del_event_handler("presence_available", self._presence_received)
        self.xmpp.plugin["xep_0030"].del_feature(feature=NS)
        if self._own_service is not None:
            self._own_service.close()
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._parts is not None:
            self._parts.devices.close()
            self._parts.trust.close()
            self._parts.conversations.close()
            self._parts.publication.stop()
        self.tasks.cancel()
        if self._starting is not None:
            self._starting.cancel()
        if self._parts is not None:
            self._parts.rooms.close()
        Stream.of(self.xmpp).close()
        self._store.close()
        self._parts = None

    def _login_failed(self, problem: LoginFailed) -> None:
        """Tell all callers of :meth:`ready` that wait now; later callers wait for the next attempt.

        If the program has been online before, nobody waits: that it cannot come back is told as ``mls_failed``, as is,
        once until it has, that somebody has to renew the server's certificate.
        """
        if self._starting is not None and (not problem.temporary or problem.reason == "certificate"):
            if not (problem.temporary and self._told_of_certificate):
                log.error("%s", problem)
                self.fire("mls_failed", problem)
            self._told_of_certificate = True
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(problem)
            self._ready.exception()  # seen: nobody may be waiting for it
            self._ready = None

    def _session_started(self, _: object) -> None:
        """A new session: once everything is begun, later ones find it going on by itself."""
        self._told_of_certificate = False
        if self._starting is not None and self._starting.done() and self._starting.exception() is not None:
            self._starting = None  # the last try failed: try again
            if self._ready is not None and self._ready.done():
                self._ready = None
        self._invitations.look_again()
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(), name="mls start")
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())  # has been reported
        elif self._starting.done():
            self.tasks.spawn(self.replenish(), "replenishing KeyPackages", passing=UNREACHABLE)
            self.devices.look_again()
            if self._parts is not None:
                self._compare_clocks(self._parts)
                self.tasks.spawn(self._parts.rooms.lost.try_again(new_session=True), "entering lost rooms")

    def _compare_clocks(self, parts: Parts) -> None:
        self.tasks.spawn(parts.maintenance.clock_check.look(), "comparing clocks", passing=UNREACHABLE)

    def _session_resumed(self, event: object) -> None:
        """The same session on another connection."""
        self._told_of_certificate = False
        if self._starting is None or (self._starting.done() and self._starting.exception() is not None):
            self._session_started(event)
        self._invitations.stream_resumed()
        if self._parts is not None:
            self._parts.rooms.stream_resumed()

    def _presence_received(self, presence: Presence) -> None:
        if self._parts is not None:
            self._parts.rooms.came_online(str(presence["from"].bare))

    async def _start(self) -> None:
        ready = self._readiness()
        try:
            parts = self._parts or self._open()
            parts.maintenance.begin()
            await parts.devices.check_own()
            await parts.own_entry.publish()
            try:
                await parts.publication.replenish()
            except NodeUnusable as error:  # nobody can add us, but the rooms that we are in go on
                log.error("%s", error)
                self.fire("mls_failed", error)
            await parts.rooms.resume()
        except Disconnected as error:
            log.info("starting is put off until the next session: %s", error)
            raise
        except Exception as error:
            log.error("starting failed: %s", error)
            if not ready.done():
                ready.set_exception(error)
                ready.exception()  # seen: nobody may be waiting for it
            self.fire("mls_failed", error)
            raise
        if not ready.done():
            ready.set_result(None)
        self.tasks.spawn(parts.maintenance.run(), "maintenance")
        self._compare_clocks(parts)
        parts.devices.start()
        self.tasks.spawn(parts.trust.run(), "sending trust messages")
        self.fire("mls_ready", self)
        parts.certificates.look()
        self.tasks.spawn(parts.rotation.go_on(), "changing our key", passing=UNREACHABLE)

    def _open(self) -> Parts:
        """Open the store and build the parts.

        :raises UsageError: the store belongs to another account
        :raises StoreError: the store cannot be used
        """
        store = self._store.open(self.xmpp.boundjid.bare)
        device = Device(store, settings=self.settings.key_package_settings, parameters=self.settings.parameters)
        trust_rules = trust_of(device, self.clock.time, introductions=self.settings.introductions)
        context = Context(
            xmpp=self.xmpp,
            device=device,
            settings=self.settings,
            clock=self.clock,
            authentication=with_manual_trust(
                self._service,
                trust_rules.table,
                unverified=self.settings.unverified_devices,
                remember=self._service is self._own_service,
                fire=self.fire,
            ),
            trust=trust_rules,
            key_packages=self.directory,
            devices=self._node,
            uploads=self.uploads,
            used_key_packages=Recent(_USED),
            tasks=self.tasks,
            questions=QuestionBudget(self.clock.monotonic),
        )
        publication = Publication(context)
        rooms = Rooms(context)
        conversations = Conversations(context, rooms, lambda account: self._invitations.accept(inviter=account))
        own_entry = OwnEntry(context)
        devices = OwnDevices(context, rooms, own_entry, self._stop_for_good)
        rotation = KeyRotation(context, rooms, own_entry, publication)
        certificates = CertificateRenewal(context, rooms, publication)
        trust = Trust(context, rooms)
        maintenance = Maintenance(context, rooms, rotation, certificates, publication)
        self._invitations.begin(context, rooms)
        self._parts = Parts(
            context, publication, rooms, conversations, own_entry, devices, rotation, certificates, trust, maintenance
        )
        publication.start()
        conversations.start()
        trust.start()
        self._unsubscribe = context.authentication.subscribe(rooms.account_changed)
        return self._parts

    def _readiness(self) -> asyncio.Future[None]:
        if self._ready is None:
            self._ready = asyncio.get_running_loop().create_future()
        return self._ready

    async def ready(self) -> None:
        """Wait until our keys are published and our rooms are being read, but for those that do not answer.

        :raises LoginFailed: there is no session: a wrong password, a bad certificate, nobody at the port ...
        :raises StoreError: the store cannot be used
        :raises DeliveryError: the server refuses to store our keys
        :raises DeviceRetired: our account has retired this device
        """
        readiness = self._readiness()
        if not readiness.done() and self._login.problem is not None:
            raise self._login.problem
        await asyncio.shield(readiness)
        if self._stopped is not None:
            raise self._stopped

    async def _stop_for_good(self, reason: DeviceRetired) -> None:
        """Leave all rooms, and delete the groups' keys and our KeyPackages."""
        self._stopped = reason
        parts = self.parts
        parts.publication.stop()
        parts.devices.close()
        self.tasks.cancel()
        await parts.rooms.give_up(reason)
        self.device.key_packages.forget_all()
        self.device.store.scrub()

    def fire(self, name: str, data: object) -> None:
        """Tell the application's handlers of an event; see :mod:`.runtime.events`."""
        self.xmpp.event(name, data)

    def background(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[None]:
        """Do something in the background."""
        return self.tasks.spawn(work, name, passing=UNREACHABLE)

    # --- parts ---------------------------------------------------------------------------------

    @property
    def parts(self) -> Parts:
        """What has been built.

        :raises UsageError: the store has not been opened yet; see :meth:`ready`
        """
        if self._parts is None:
            raise UsageError("not ready yet: await mls.ready()")
        return self._parts

    @property
    def context(self) -> Context:
        """What the parts of this client share.

        :raises UsageError: the store has not been opened yet; see :meth:`ready`
        """
        return self.parts.context

    @property
    def device(self) -> Device:
        """This device.

        :raises UsageError: the store has not been opened yet; see :meth:`ready`
        """
        return self.parts.context.device

    @property
    def devices(self) -> OwnDevices:
        """The devices of our account: listed, named, admitted to our rooms, retired.

        :raises UsageError: the store has not been opened yet; see :meth:`ready`
        """
        return self.parts.devices

    @property
    def trust(self) -> Trust:
        """People's decisions about keys.

        :raises UsageError: the store has not been opened yet; see :meth:`ready`
        """
        return self.parts.trust

    @property
    def authentication(self) -> AuthenticationService:
        """The configured Authentication Service; people's decisions about keys outrank it once the store is open."""
        return self._service if self._parts is None else self._parts.context.authentication

    # --- who we are ----------------------------------------------------------------------------

    @property
    def device_id(self) -> str:
        """This device's id, random and fixed for the life of the store."""
        return self.device.identity.device

    @property
    def fingerprint(self) -> str:
        """Of our key for the preferred cipher suite, for people to compare."""
        return self.context.fingerprint

    def time(self) -> float:
        """The clock."""
        return self.clock.time()

    @property
    def now(self) -> int:
        """The clock, in whole seconds since the Unix epoch."""
        return self.clock.now

    # --- certificates --------------------------------------------------------------------------

    def certificate_request(self, suite: int | None = None) -> bytes:
        """What an authority needs to certify this device's key: a PKCS #10 request, PEM.

        :param suite: number of one of our cipher suites; the preferred one if not given
        :raises UsageError: not ready, or not one of our suites
        """
        return self.parts.certificates.request(suite)

    async def use_certificate(self, chain: bytes | str | None) -> None:
        """Bear an X.509 credential from now on (RFC 9420 5.3): in new KeyPackages, and in all groups.

        Returns when the KeyPackages have been replaced, and our leaf in every room that can be reached; the others
        follow by themselves.  The certificate is kept in the store.  See ``docs/certificates.md``.

        :param chain: PEM, our certificate first, then those of the authorities below the root; None: none any more
        :raises UsageError: it is not for this device, its key or the present time; nothing has changed
        :raises StoreError: nothing has changed
        :raises DeliveryError: our KeyPackages could not be replaced yet; it is tried again
        """
        await self.parts.certificates.use(chain)

    async def rotate_key(self) -> KeyRotated:
        """Replace our signature key, in all groups and KeyPackages; the device, its leaves and its name stay.

        Rooms that cannot be reached now get the new key later, in later runs, too; the old key is listed until then
        (:mod:`.account.key_rotation`).  Groups that we have lost are waited for, a week at most, before anything
        changes; :meth:`.EncryptedRoom.leave` ends that.  If a change is under way already, it continues.

        :raises UsageError: our key is certified
        :raises StoreError: nothing has changed
        :raises DeliveryError: the account's nodes could not be written yet; it is tried again
        """
        await self.ready()
        return await self.parts.rotation.begin()

    # --- KeyPackages ---------------------------------------------------------------------------

    async def replenish(self) -> None:
        """Publish KeyPackages, and retract used and old ones, until the directory has what it should have."""
        await self.parts.publication.replenish()

    # --- rooms ---------------------------------------------------------------------------------

    @property
    def rooms(self) -> dict[str, EncryptedRoom]:
        """All rooms that we are in or invited to, by bare JID."""
        return {} if self._parts is None else self._parts.rooms.all

    def room(self, room: str) -> EncryptedRoom:
        """The room with this bare JID.

        :raises UsageError: we are not in it
        """
        handle = None if self._parts is None else self._parts.rooms.get(room)
        if handle is None:
            raise UsageError(f"no group in {room}")
        return handle

    async def create(
        self,
        room: str,
        *,
        invite: Iterable[str] = (),
        name: str | None = None,
        policy: RoomPolicy | None = None,
        suite: int | None = None,
    ) -> EncryptedRoom:
        """Make a room (persistent, members-only, non-anonymous, archived) and an encrypted group in it.

        If this was interrupted (the program was killed, the stream lost), call it again: it goes on.

        :param room: bare JID of a room that does not exist
        :param invite: bare JIDs of people to be added at once; the group gets the best cipher suite that they all
            support, see :mod:`.key_packages.cipher_suite_choice`.  :attr:`EncryptedRoom.invited` says what has become
            of them
        :param name: for people
        :param policy: who may do what; by default we are the administrator
        :param suite: number of the cipher suite, without asking what others support.  Without it and `invite`, the
            group has our preferred one, until the first people who are added decide
        :raises DowngradeSuspected: a server seems to hide that a better suite is supported; to go on all the same,
            say which `suite` it shall be
        :raises UsageError: the room exists; see :meth:`adopt`
        :raises RoomUnsuitable: the service cannot make a suitable room; `reasons` says why
        :raises DeliveryError: refused or unanswered
        """
        await self.ready()
        return await self.parts.rooms.create(room, invite, name, policy, suite)

    @property
    def invitations(self) -> list[UndecidedInvitation]:
        """The invitations that ``accept_invitation`` has not accepted, the oldest first; kept for 14 days.

        :meth:`join` of the room accepts one: `inviter` says whose, if several accounts invite to one room.
        :meth:`conversation` with the inviter accepts all of that account.
        """
        return self._invitations.undecided

    @property
    def conversations(self) -> dict[str, EncryptedRoom]:
        """The conversations of two that we are in, by the other's bare JID; see :meth:`conversation`."""
        return {} if self._parts is None else self._parts.conversations.all

    async def conversation(self, account: str, *, service: str | None = None) -> EncryptedRoom:
        """The room in which we talk with one account, all devices of both; made if there is none.

        It is hidden, and nobody else can be added.  It is the same for both sides, for new devices and after a restart;
        ``mls_conversation_merged`` tells if both have begun one at once.  See :mod:`.rooms.conversations`.
        :attr:`invitations` of the account are accepted first: one may be to the conversation that it has begun.

        If this was interrupted, call it again: it goes on.

        :param account: bare JID
        :param service: domain of the service for rooms, if one must be made; that of our server if not given
        :raises NobodyReachable: the account has no device that can be added; no room stays behind
        :raises DowngradeSuspected: see :meth:`create`
        :raises UsageError: no address, or our own; or our server has no service for rooms
        :raises DeliveryError: refused or unanswered
        """
        await self.ready()
        return await self.parts.conversations.open(account, service)

    async def is_room(self, address: str) -> bool:
        """Whether an address is that of a room, existing or not; else it may be an account's.

        :raises UsageError: it is none
        """
        await self.ready()
        return await self.parts.conversations.is_room(address)

    async def negotiate(self, accounts: Iterable[str], *, policy: RoomPolicy | None = None) -> Negotiation:
        """The cipher suite that a group with these accounts would have, and the devices that lack each suite.

        :param accounts: bare JIDs
        :param policy: of the group
        """
        await self.ready()
        return await self.parts.rooms.negotiate(accounts, policy)

    async def adopt(
        self, room: str, *, policy: RoomPolicy | None = None, suite: int | None = None, anew: bool = False
    ) -> EncryptedRoom:
        """Make an encrypted group in a room that exists.  The room's configuration is not touched.

        :param room: bare JID of a room that we may enter
        :param anew: even if there is a group already, because nobody is in it any more
        :raises RoomUnsuitable: it does not qualify; `reasons` says why
        :raises GroupExists: its archive shows a group already, which `group_id` names: see :meth:`join`
        """
        await self.ready()
        return await self.parts.rooms.adopt(room, policy, suite, anew)

    async def join(
        self, room: str, *, after: str | None = None, external: bool = False, inviter: str | None = None
    ) -> EncryptedRoom:
        """Follow a room in which somebody adds, or has added, us; in its group when this returns.

        If there is no Welcome for us, we ask for one.  A member lets us in by itself if our account has another
        client in the group; else somebody has to (``mls_join_requested``).

        A client that was removed from the group, and is still in the room, follows no Welcome by itself but one that
        an invitation names, or one back into the same group by a member that may add it.  This method says that our
        user wants in again.

        :param room: bare JID
        :param after: archive id from which to look for the Welcome; the beginning if not given
        :param external: come in by a Commit of our own, where the group's policy allows it and the room shows a
            GroupInfo
        :param inviter: bare JID of the account whose invitation counts, and no other; until it invites, only a Welcome
            that one of its devices has made.  Anybody in a room can make a Welcome into another group, and invite to
            it: name the inviter whenever you know who it is
        :raises SeveralInvitations: several accounts invite to the room, and `inviter` is not given
        :raises NoGroupInfo: an external Commit cannot be made at present
        :raises NotPermitted: the group's policy allows no external Commit of ours
        :raises RoomUnsuitable: the address is an account's
        :raises DeliveryError: the room does not let us in
        """
        await self.ready()
        chosen = None if inviter is None else typed_address(inviter).partition("/")[0]
        if after is None:
            await self._invitations.accept(room=room_address(room), inviter=chosen)
        return await self.parts.rooms.join(room, after, external, chosen or "")

    async def follow(self, room: str) -> EncryptedRoom:
        """Go on in the room that takes a destroyed one's place; in its group when this returns.

        ``mls_room_lost`` tells of it, and its `alternate` names the other room.  Nobody but the server says so:
        therefore nothing is followed by itself, and the other room's group is left again if it has members (clients
        with their keys) that the old group did not have, or gives anybody more rights.  See
        :mod:`.rooms.alternate_venue`.  If somebody there has to add us first, we ask, as :meth:`join` does.  The old
        group's keys stay until :meth:`EncryptedRoom.leave`.

        :param room: bare JID of the destroyed room
        :raises UsageError: we do not know that room, are not in its group, or nobody has named another one
        :raises StrangersInRoom: nothing was sent to the group there but that we leave it; if you know them, call
            :meth:`join`.  If we were there before, by an invitation, we stay
        :raises RightsGained: the same, because its policy gives somebody rights that the old group did not give
        :raises RoomLost: the other room is gone, too
        :raises: as :meth:`join`
        """
        await self.ready()
        return await follow_alternate(self.room(room), self.rooms, self.join)
