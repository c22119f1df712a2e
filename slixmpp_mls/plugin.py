"""The slixmpp plugin ``mls``: what a bot author sees.

::

    xmpp.register_plugin("mls", {"store": "alice.db"})
    mls = xmpp.plugin["mls"]
    await mls.ready()
    group = await mls.create("coven@rooms.example")
    await group.add("bob@example")
    await group.send("Fair is foul")

Configuration (the second argument of ``register_plugin``):

=======================  ==========================================================================
``store``                path of the SQLite file (made if missing), or a Store.  Required.
``passphrase``           encrypts that file: a text, a ``f() -> str`` called when it is opened, or a StoreSecret;
                         see :mod:`slixmpp_mls.store.wrapped_key`.  Needs the extra ``encrypted``
``key_file``             the same by a file of 32 octets or more, instead of a passphrase
``label``                name of this device for people, shown with its keys
``new_devices``          ``"ask"`` whether a device that our account lists from now on comes into our rooms
                         (``mls_new_device``), or ``"add"`` it on the server's word; see :mod:`.account.devices`
``renew_after``          seconds after which our keys in a group are renewed; 7 days
``renew_after_messages`` the same by messages that we have sent; 1,000
``evict_after``          seconds after which members that have not renewed their keys are removed, where we may
                         remove them; ``"policy"`` for the `max_leaf_age` of each group; never if not given
``nick``                 nickname in rooms; the account's localpart if not given
``cipher_suites``        numbers, the preferred one first; ``(1,)``
``key_packages``         how many are kept ready per suite; 100
``authentication``       an AuthenticationService, or ``f(directory) -> AuthenticationService`` that makes one out of
                         that of the accounts' device lists; if not given, those lists, remembered (trust on first use).
                         What people verify and distrust outranks it: see :mod:`.account.trust`
``unverified_devices``   of accounts that have verified ones: ``"refuse"``, ``"ask"`` or ``"accept"``;
                         see :mod:`.authentication.manual_trust`
``introductions``        whether to believe verified people about third persons' keys, and to tell others of those
                         that were verified here; False; see :mod:`.authentication.automatic_trust`
``denied_members``       what is done about members whom it denies: ``"remove"``, ``"hold"`` or ``"report"``;
                         see :mod:`.rooms.engine.member_checks`
``grace``                seconds until a member that was vouched for, and is denied now, is removed; 86400
``accept_invitation``    ``f(invitation) -> bool``: whether to follow an invitation; all if not given
``allow_url``            ``f(url) -> bool``: whether a group's ratchet tree may be fetched from there; if not given,
                         see :mod:`slixmpp_mls.delivery.upload`
``self_ping``            seconds of silence in a room after which to ask it whether we are still in it (XEP-0410); 300
``rejoin``               what is done about a group that we can not follow any more: ``"automatic"`` (we ask to be added
                         afresh) or ``"by hand"`` (:meth:`EncryptedRoom.rejoin`); see :mod:`.rooms.engine.rejoin`
``parameters``           :class:`slixmpp_mls.mls.parameters.Parameters`
``clock``                seconds since the Unix epoch, for tests; ``time.time``
=======================  ==========================================================================

Events (``xmpp.add_event_handler(name, handler)``):

============================  ===================================================================
``mls_ready``                 keys are published, rooms are being read; the plugin
``mls_failed``                starting failed, or a room's worker did; an exception
``mls_message``               a message; :class:`.rooms.content.EncryptedMessage`
``mls_sent``                  a message of ours is in the room's order; ``MessageSent``
``mls_joined``                we are in a group; ``Joined``
``mls_group_changed``         a Commit took effect; ``GroupChanged``
``mls_commit_lost``           a Commit of ours came second (it is made again) or was refused; ``CommitLost``
``mls_removed``               we are out of a group; ``RemovedFromGroup``
``mls_rejected``              a stanza was refused; ``Rejected`` with the reason
``mls_unreadable``            a message without a key for it; ``Unreadable`` says why
``mls_doubted``               the Authentication Service does not vouch for a member; ``MemberDoubted``
``mls_certificate_expires``   a certificate of ours ends soon; ``CertificateExpires``
``mls_trust_changed``         a key is verified, distrusted ... from now on; ``TrustChanged``
``mls_new_key``               an account that we know has another device; ``NewDevice``
``mls_key_changed``           a device has another key than the one we know, and is denied; ``KeyChanged``
``mls_affiliations_differ``   the room lets in others than the group has; ``AffiliationsDiffer``
``mls_doubted_message``       a message of a member whom it denies; ``EncryptedMessage``
``mls_left_behind``           a member seems to be in a later epoch than we are; ``LeftBehind``
``mls_group_lost``            we can not follow a group any more; ``GroupLost``
``mls_group_closed``          a ReInit has ended a group, another one will follow it; ``GroupClosed``
``mls_group_continued``       it is there; ``GroupContinued``
``mls_continuation_delayed``  it can not be made yet; ``ContinuationDelayed``
``mls_downgrade_suspected``   a server seems to hide what a device supports; ``Suspicion``
``mls_rejoining``             we try to come (back) into a group; ``Rejoining``
``mls_join_requested``        somebody asks to be added whom we do not add by ourselves; ``JoinRequested``
``mls_invited``               somebody invites us; ``Invitation``
``mls_catching_up``           progress in a room's archive; ``CatchingUp``
``mls_entered``               in a room; ``Entered``
``mls_interrupted``           out of a room for now; ``Interrupted``
``mls_room_lost``             out of a room for good; an exception
``mls_room_event``            anything else that a room reports
``mls_bounced``               the room refused a stanza; ``Bounced``
``mls_affiliation_changed``   ``AffiliationChanged``
``mls_new_device``            our account lists a device that we have not seen before; ``NewOwnDevice``
``mls_device_conflict``       our id was listed with other keys, or a retired device again; ``DeviceConflict``
``mls_keys_renewed``          our keys in a group were renewed by themselves; ``KeysRenewed``
``mls_silent``                members have not renewed their keys for too long; ``SilentMembers``
``mls_key_packages``          our KeyPackages in the directory were replenished or replaced; ``KeyPackagesChanged``
``mls_clock_jumped``          the machine's date has been set, or it has slept; ``ClockJumped``
``mls_key_rotated``           a change of our signature key is at its end; ``KeyRotated``
``mls_retired``               our account has retired this device, it has stopped; ``RetiredDevice``
``mls_store_failed``          the disk refused a step, it is tried again; ``StoreError``
============================  ===================================================================

A program that is killed at any point goes on where it was when it starts again with the same store.

*Messages to you*: each one comes at least once, in the room's order.  It stays in the store until the handlers
of ``mls_message`` (or ``mls_doubted_message``) are done with it: plain ones have returned, coroutines have ended; one
that raises has had its chance, one that is cancelled has not.  What lies there at the next start is handed out again,
before anything new, marked ``again``: perhaps you have seen it.  `archive_id` says for sure, it is the same every
time.  Coroutine handlers *begin* in the room's order; slixmpp lets them run at the same time.  Other events are not
repeated: what they tell can be asked for (:attr:`EncryptedRoom.members`, :attr:`EncryptedRoom.is_member` ...).

*Messages from you*: one is accepted when :meth:`EncryptedRoom.send` returns; then it reaches the room once, even
if the program never gets to hear of it (``mls_sent``, `confirmed`).  If the program was killed before that, it may
have been accepted or not: send it again as a Message with the same id, and everybody sees it once.

*Changes of the group*: what `add`, `remove`, `update` or `set_policy` has put on its way takes effect if it comes
first, with the invitations and the affiliations in the room that belong to it; if not, nobody makes it again after a
restart, so ask (:attr:`EncryptedRoom.accounts`) and call again.  An `add` that was stopped before may have let people
into the room who are not in the group (``mls_affiliations_differ``).  `leave` goes on by itself; `create` goes on when
it is called again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

from slixmpp import ClientXMPP
from slixmpp.plugins import BasePlugin

from .account.certificate_renewal import Renewal
from .account.devices import OwnDevices
from .account.key_rotation import KeyRotated, Rotation
from .account.maintenance import Hygiene
from .account.trust import Trust
from .authentication import AuthenticationService, DirectoryService
from .authentication.callbacks import Recent
from .client import Device, KeyPackageSettings
from .client.group.resumption_psks import Awaited
from .delivery import DeviceDirectory, KeyPackageDirectory, Stream, Uploads
from .delivery.room import PING_INTERVAL
from .errors import DeviceRetired, Disconnected, MLSError, NoAnswer, UsageError
from .identity import fingerprint
from .key_packages.cipher_suite_choice import Negotiation
from .key_packages.publication import OwnKeyPackages
from .mls.crypto.cipher_suite import CipherSuite
from .mls.parameters import DAY, Parameters
from .policy import RoomPolicy
from .rooms.encrypted_room import EncryptedRoom
from .rooms.engine.member_checks import DeniedMembers
from .rooms.engine.rejoin import RejoinMode
from .rooms.invitations import Invitations
from .rooms.registry import Rooms
from .stanza import NS
from .stanza import slixmpp as bindings
from .store import SQLiteStore, Store, store_secret

__all__ = ["MLS"]

log = logging.getLogger(__name__)

_PICKED = 10_000


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
    default_config: ClassVar[dict[str, Any]] = {
        "store": None,
        "passphrase": None,
        "key_file": None,
        "label": None,
        "new_devices": "ask",
        "renew_after": 7 * DAY,
        "renew_after_messages": 1000,
        "evict_after": None,
        "nick": None,
        "cipher_suites": (1,),
        "key_packages": 100,
        "authentication": None,
        "unverified_devices": "refuse",
        "introductions": False,
        "denied_members": "remove",
        "grace": 86_400,
        "accept_invitation": None,
        "allow_url": None,
        "self_ping": PING_INTERVAL,
        "rejoin": "automatic",
        "parameters": None,
        "clock": time.time,
    }
    xmpp: ClientXMPP

    # --- life cycle ----------------------------------------------------------------------------

    def plugin_init(self) -> None:
        if self.config["store"] is None:
            raise UsageError('the plugin needs a store: register_plugin("mls", {"store": "bot.db"})')
        self._clock: Callable[[], float] = self.config["clock"]
        self._store: Store | None = None
        self._device: Device | None = None
        self._ready: asyncio.Future[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        bindings.register()
        self.directory = KeyPackageDirectory(self.xmpp)
        self.picked: Recent[bytes, None] = Recent(_PICKED)
        """KeyPackageRefs of others with which we have lately added somebody, or tried to."""
        self.uploads = Uploads(self.xmpp, allow_url=self.config["allow_url"])
        self.denied_members = DeniedMembers(self.config["denied_members"])
        self.grace = int(self.config["grace"])
        """Seconds until a lapsed member is removed."""
        self.rejoin = RejoinMode(self.config["rejoin"])
        """What is done about groups that we can not follow any more."""
        self._unsubscribe: Callable[[], None] | None = None
        self.rooms = Rooms(self)
        self._invitations = Invitations(self)
        self._key_packages = OwnKeyPackages(self)
        self.renewal = Renewal(self)
        self.rotation = Rotation(self)
        self.hygiene = Hygiene(self)
        self._stopped: DeviceRetired | None = None
        node = DeviceDirectory(self.xmpp)
        self.devices = OwnDevices(self, node)
        self._trust: Trust | None = None
        self._own_service: DirectoryService | None = None
        given = self.config["authentication"]
        if given is None or callable(given):
            self._own_service = DirectoryService(node, clock=self._clock)
            self.authentication: AuthenticationService = given(self._own_service) if given else self._own_service
        self.xmpp.add_event_handler("session_start", self._session_started)
        self.xmpp.add_event_handler("session_resumed", self._session_resumed)

    def session_bind(self, jid: object) -> None:
        # slixmpp keeps features by address, so they are announced once there is one; presence comes later.
        self.xmpp.plugin["xep_0030"].add_feature(NS)
        if self._own_service is not None:
            self._own_service.close()  # what was told while we were away is lost
            self._own_service.start()

    def plugin_end(self) -> None:
        self._invitations.close()
        self.xmpp.del_event_handler("session_start", self._session_started)
        self.xmpp.del_event_handler("session_resumed", self._session_resumed)
        self.xmpp.plugin["xep_0030"].del_feature(feature=NS)
        self.devices.close()
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._own_service is not None:
            self._own_service.close()
        if self._trust is not None:
            self._trust.close()
        for task in [*self._tasks, *([self._starting] if self._starting is not None else [])]:
            task.cancel()
        self.rooms.close()
        Stream.of(self.xmpp).close()
        if self._store is not None and self._store is not self.config["store"]:
            self._store.close()
        self._store = self._device = None

    def _session_started(self, _: object) -> None:
        """A new session: once everything is begun, later ones find it going on by itself."""
        if self._starting is not None and self._starting.done() and self._starting.exception() is not None:
            self._starting = None  # the last try failed: try again
            if self._ready is not None and self._ready.done():
                self._ready = None
        self._invitations.look_again()
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(), name="mls start")
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())  # has been reported
        elif self._starting.done():
            self.background(self.replenish(), "replenish")
            self.devices.look_again()

    def _session_resumed(self, event: object) -> None:
        """The same session on another connection."""
        if self._starting is None or (self._starting.done() and self._starting.exception() is not None):
            self._session_started(event)
        self.rooms.stream_resumed()

    async def _start(self) -> None:
        ready = self._readiness()
        try:
            self._open_store()
            self.hygiene.begin()
            if self._unsubscribe is None:
                self._unsubscribe = self.authentication.subscribe(self.rooms.account_changed)
            await self._publish()
            await self.rooms.resume()
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
        self.background(self.hygiene.run(), "hygiene")
        self.devices.start()
        self.background(self.trust.run(), "trust messages")
        self.fire("mls_ready", self)
        self.renewal.look()
        self.background(self.rotation.go_on(), "changing keys")

    def _open_store(self) -> None:
        if self._device is not None:
            return
        account = self.xmpp.boundjid.bare
        given = self.config["store"]
        if isinstance(given, str | Path):
            secret = store_secret(self.config["passphrase"], self.config["key_file"])
            self._store = SQLiteStore(given, account, secret=secret)
        else:
            self._store = given
        assert self._store is not None
        if self._store.account != account:
            raise UsageError(f"the store belongs to {self._store.account}, not to {account}")
        settings = KeyPackageSettings(
            suites=tuple(self.config["cipher_suites"]), count=int(self.config["key_packages"])
        )
        self._device = Device(self._store, settings=settings, parameters=self.config["parameters"] or Parameters())
        self._trust = Trust(self, self._device)
        self.authentication = self._trust.around(self.authentication, remember=self.authentication is self._own_service)
        self._invitations.begin(self._device.store)

    async def _publish(self) -> None:
        await self.devices.check_own()
        await self.devices.enlist()
        await self.replenish()

    def _readiness(self) -> asyncio.Future[None]:
        if self._ready is None:
            self._ready = asyncio.get_running_loop().create_future()
        return self._ready

    async def ready(self) -> None:
        """Wait until our keys are published and our rooms are being read, but for those that do not answer.

        :raises StoreError: the store can not be used
        :raises DeliveryError: the server refuses to store our keys
        :raises DeviceRetired: our account has retired this device
        """
        await asyncio.shield(self._readiness())
        if self._stopped is not None:
            raise self._stopped

    async def stop_for_good(self, reason: DeviceRetired) -> None:
        """Leave all rooms, and delete the groups' keys and our KeyPackages."""
        self._stopped = reason
        self._key_packages.stop()
        self.devices.close()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        await self.rooms.give_up(reason)
        self.device.forget_key_packages()
        self.device.store.scrub()

    def fire(self, name: str, data: object) -> None:
        """An event of slixmpp's."""
        self.xmpp.event(name, data)

    def background(self, work: Awaitable[object], name: str) -> asyncio.Task[None]:
        """Do something beside; what goes wrong with it is reported (``mls_failed``)."""

        async def guarded() -> None:
            try:
                await work
            except (Disconnected, NoAnswer) as error:
                log.info("%s is put off: %s", name, error)  # until the next session
            except MLSError as error:
                log.warning("%s failed: %s", name, error)
                self.fire("mls_failed", error)

        task = asyncio.create_task(guarded(), name=f"mls {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- who we are ----------------------------------------------------------------------------

    @property
    def device(self) -> Device:
        """This device.

        :raises UsageError: the store has not been opened yet; see :meth:`ready`
        """
        if self._device is None:
            raise UsageError("not ready yet: await mls.ready()")
        return self._device

    @property
    def trust(self) -> Trust:
        """Who is who, by people.

        :raises UsageError: the store has not been opened yet; see :meth:`ready`
        """
        if self._trust is None:
            raise UsageError("not ready yet: await mls.ready()")
        return self._trust

    @property
    def device_id(self) -> str:
        """This device's id, random and fixed for the life of the store."""
        return self.device.identity.device

    @property
    def fingerprint(self) -> str:
        """Of our key for the preferred cipher suite, to be compared by people."""
        suite = CipherSuite.get(self.device.suites[0])
        return fingerprint(self.device.signature_key(suite).public)

    def time(self) -> float:
        """The clock."""
        return self._clock()

    @property
    def now(self) -> int:
        """The clock, in whole seconds since the Unix epoch."""
        return int(self._clock())

    # --- certificates --------------------------------------------------------------------------

    def certificate_request(self, suite: int | None = None) -> bytes:
        """What an authority needs to certify this device's key: a PKCS #10 request, PEM.

        :param suite: number of one of our cipher suites; the preferred one if not given
        :raises UsageError: not ready, or not one of our suites
        """
        return self.renewal.request(suite)

    async def use_certificate(self, chain: bytes | str | None) -> None:
        """Bear an X.509 credential from now on (RFC 9420 5.3): in new KeyPackages, and in all groups.

        Returns when the KeyPackages have been replaced, and our leaf in every room that can be reached; the others
        follow by themselves.  The certificate is kept in the store.  See ``docs/certificates.md``.

        :param chain: PEM, our certificate first, then those of the authorities below the root; None: none any more
        :raises UsageError: it is not for this device, its key or the present time; nothing has changed
        :raises StoreError: nothing has changed
        :raises DeliveryError: our KeyPackages could not be replaced yet; it is tried again
        """
        await self.renewal.use(chain)

    async def rotate_key(self) -> KeyRotated:
        """Replace our signature key, in all groups and KeyPackages; the device, its leaves and its name stay.

        What can not be done now, as a room can not be reached, is done when it can, in later runs, too; the old key
        is listed as long (:mod:`.account.key_rotation`).  If a change is under way already, it goes on.

        :raises UsageError: our key is certified
        :raises StoreError: nothing has changed
        :raises DeliveryError: the account's nodes could not be written yet; it is tried again
        """
        await self.ready()
        return await self.rotation.begin()

    # --- KeyPackages ---------------------------------------------------------------------------

    async def replenish(self) -> None:
        """Bring our KeyPackages in the directory to what they should be: there, fresh, unused."""
        await self._key_packages.replenish()

    # --- rooms ---------------------------------------------------------------------------------

    @property
    def groups(self) -> dict[str, EncryptedRoom]:
        """All rooms that we are in or invited to, by bare JID."""
        return self.rooms.all

    def group(self, room: str) -> EncryptedRoom:
        """The room with this bare JID.

        :raises UsageError: we are not in it
        """
        handle = self.rooms.get(room)
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
        :param suite: number of the cipher suite, without asking what others support
        :raises DowngradeSuspected: a server seems to hide that a better suite is supported; to go on all the same,
            say which `suite` it shall be
        :raises UsageError: the room exists; see :meth:`adopt`
        :raises RoomUnsuitable: the service can not make a room that will do; `reasons` says why
        :raises DeliveryError: refused or unanswered
        """
        return await self.rooms.create(room, invite, name, policy, suite)

    async def negotiate(self, accounts: Iterable[str], *, policy: RoomPolicy | None = None) -> Negotiation:
        """Which cipher suite a group with these accounts would have, and who lacks which.

        :param accounts: bare JIDs
        :param policy: of the group
        """
        return await self.rooms.negotiate(accounts, policy)

    async def adopt(
        self, room: str, *, policy: RoomPolicy | None = None, suite: int | None = None, anew: bool = False
    ) -> EncryptedRoom:
        """Make an encrypted group in a room that exists.  The room's configuration is not touched.

        :param room: bare JID of a room that we may enter
        :param anew: even if there is a group already, because nobody is in it any more
        :raises RoomUnsuitable: it does not qualify; `reasons` says why
        :raises GroupExists: its archive shows a group already, which `group_id` names: see :meth:`join`
        """
        return await self.rooms.adopt(room, policy, suite, anew)

    async def join(self, room: str, *, after: str | None = None, external: bool = False) -> EncryptedRoom:
        """Follow a room in which somebody adds, or has added, us; in its group when this returns.

        If there is no Welcome for us, we ask for one.  A member lets us in by itself if our account has another
        client in the group; else somebody has to (``mls_join_requested``).

        :param room: bare JID
        :param after: archive id from which to look for the Welcome; the beginning if not given
        :param external: come in by a Commit of our own, where the group's policy allows it and the room shows a
            GroupInfo
        :raises NoGroupInfo: an external Commit can not be made at present
        :raises NotPermitted: the group's policy allows no external Commit of ours
        :raises DeliveryError: the room does not let us in
        """
        return await self.rooms.join(room, after, external)

    async def forget(self, handle: EncryptedRoom) -> None:
        """Stop reading a room."""
        await self.rooms.forget(handle)

    async def reached(self, awaited: Awaited) -> None:
        """Wait until one of our rooms is in an epoch that another one needs, or will not get there."""
        try:
            await self.ready()  # by then all rooms are being read
        except MLSError:
            return
        handle = self.rooms.get(awaited.room)
        if handle is not None:
            await handle.worker.reach(awaited.epoch)
