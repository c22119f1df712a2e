"""The members of one room, driven step by step by a test, without a server and without a clock.

::

    world = World()
    alice, bob = world.group("alice@a.example", "bob@b.example")   # both in one encrypted group
    alice.send(b"Fair is foul")                                    # in flight
    bob.commit()                                                   # in flight, too
    world.room.deliver(1)                                          # the Commit overtakes the message
    world.settle()                                                 # everything else, in order; all members read
    assert bob.texts == [b"Fair is foul"]

The test triggers every step, and every run is the same: nothing here is asynchronous, and the test supplies the random
values.  The room can do everything that a malicious service could do:

=====================  =====================================================================
`FakeRoom.lose`        a stanza never arrives
leaving it in flight   a stanza is delayed
`deliver(position)`    stanzas overtake each other
`deliver(keep=True)`   a stanza arrives twice
`split`, `deliver(to)` members see different rooms
`post(claimed=...)`    the room names another sender, or none
`expire`               the archive loses its first stanzas
`Participant.bounce`   the sender gets an error for its stanza
=====================  =====================================================================

:class:`~slixmpp_mls.testing.FaultyStore` fails, or kills the process, at a chosen write.

Such tests check the rules of :mod:`slixmpp_mls.client`, with everything real above and below them.  Test a bot's own
handlers against a real server, which :mod:`slixmpp_mls.devserver` starts within a second: the plugin communicates with
its room by stanzas (presence, MUC, archive queries), and a fake that answers all of them would be a server.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..client import (
    Device,
    Event,
    GroupContinued,
    Incoming,
    Joined,
    JoinedPartially,
    KeyPackageSettings,
    MessageReceived,
    Outgoing,
    RoomGroup,
)
from ..client.group.group_infos import group_infos_in
from ..client.storage.doubts import Doubt
from ..client.storage.records import MembershipState
from ..errors import InvalidError, PeerError, UsageError
from ..identity import ClientIdentity
from ..mls.crypto.cipher_suite import CipherSuite, Random
from ..mls.group.commit_creation import CommitOptions
from ..mls.parameters import DAY, HOUR, Parameters
from ..mls.structures.leaf_node import LeafNode, Lifetime
from ..mls.structures.proposals import Add, AnyProposal, Remove
from ..policy import Right, RoomPolicy
from ..stanza import elements
from ..stanza.blob import BlobReference, Sealing
from ..store import MemoryStore
from ..store.interface import Store
from .directory import FakeDirectory
from .room import FakeRoom

__all__ = ["NOW", "Participant", "World", "commit_against_policy"]

_E = TypeVar("_E")

NOW = 1_800_000_000
"""The initial time of this package's clocks, in seconds since the Unix epoch."""


def commit_against_policy(group: RoomGroup, proposals: Sequence[AnyProposal], now: int) -> Outgoing:
    """Make a Commit without checking that the group's policy allows it; members ignore the Commit.

    :param now: seconds since the Unix epoch
    """
    draft = group.mls.draft_commit(proposals, now=now, by_reference=(), random=group.device.random)
    return group.sending.finish_commit(draft)


class Participant:
    """A device with one room.  It does the plugin's work for a bot, driven by a test.

    :ivar group: the room's group, the object under test
    :ivar events: all its events, oldest first
    :ivar judge: the Authentication Service: returns an error for a leaf that it does not accept, or None
    :ivar judge_inviter: the same for the signer of a Welcome, which is then not followed
    """

    store: Store
    device: Device
    group: RoomGroup

    def __init__(self, world: World, store: Store) -> None:
        self.world = world
        self.store = store
        self.events: list[Event] = []
        self.judge: Callable[[LeafNode], PeerError | None] = lambda leaf: None
        self.judge_inviter: Callable[[LeafNode], PeerError | None] = lambda leaf: None
        self.denies = True  # it denies the leaves that `judge` refuses; if false, it cannot tell
        self.restart()

    def __repr__(self) -> str:
        return f"<Participant {self.device.identity}>"

    def restart(self, store: Store | None = None) -> None:
        """Restart as after a crash: only the store remains.

        :param store: another store over the same data
        """
        self.store = store or self.store
        self.device = Device(
            self.store, settings=self.world.settings, parameters=self.world.parameters, random=self.world.random
        )
        self.group = RoomGroup(self.device, self.world.room.jid)
        self._hear(self.group.room_state.not_handed_over())
        self.world.directory.replenish(self.device, self.world.now)

    @property
    def account(self) -> str:
        return self.device.identity.account

    @property
    def epoch(self) -> int:
        return self.group.mls.epoch

    @property
    def texts(self) -> list[bytes]:
        """The application data of other members that it has read, in order."""
        return [event.data for event in self.events if isinstance(event, MessageReceived)]

    def said(self, kind: type[_E]) -> list[_E]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    # --- sending

    def post(self, outgoing: Outgoing) -> Outgoing:
        """Send a message to the room; what no stanza holds is uploaded first."""
        if outgoing.uploads:
            places = [self.world.upload(octets) for octets in outgoing.uploads]
            placed = self.group.sending.placed(outgoing.origin_id, places)
            if placed is None:
                return outgoing
            outgoing = placed
        self.world.room.post(outgoing, self.account)
        return outgoing

    def keep(self, data: bytes) -> Outgoing:
        """Compose application data that is sent when the room has been read to its end."""
        return self.group.sending.compose(data, later=True)

    def send(self, data: bytes, origin_id: str | None = None) -> Outgoing:
        """Send application data."""
        return self.post(self.group.sending.compose(data, origin_id=origin_id))

    def commit(self, *proposals: AnyProposal, options: CommitOptions | None = None) -> Outgoing:
        """Send a Commit; without proposals, it only renews our keys."""
        return self.post(self.group.sending.commit(proposals, self.world.now, options=options))

    def propose(self, proposal: AnyProposal) -> Outgoing:
        return self.post(self.group.sending.propose(proposal, self.world.now))

    def ask(self) -> list[Outgoing]:
        """Request to be added, from outside the group."""
        return [self.post(outgoing) for outgoing in self.group.join_requests.ask(self.world.now)]

    def vouch_for(self, other: Participant) -> None:
        """Give another device of our account a voucher by this device; it replaces all others."""
        for number in self.device.suites:
            suite, now = CipherSuite.get(number), self.world.now
            key, lifetime = other.device.signature_key(suite).public, Lifetime(now - HOUR, now + 90 * DAY)
            voucher = self.device.vouch_for(suite, other.device.identity, key, lifetime)
            other.device.keep_vouchers(suite, [voucher])

    def ways_in(self) -> list[elements.GroupInfo]:
        """The GroupInfos in the room by which this device can join, the best one first."""
        shown = ((each.archive_id, each.payloads) for each in self.world.room.archive(self.account))
        return [way.group_info for way in self.group.group_infos.ways_in(group_infos_in(shown), self.world.now)[0]]

    def enter(self, group_info: elements.GroupInfo) -> Outgoing:
        """Send an external Commit."""
        return self.post(
            self.group.external_commits.finish(
                self.group.external_commits.draft(group_info, self.world.now), self.world.now
            )
        )

    def adding(self, account: str) -> list[AnyProposal]:
        """Add proposals for an account's devices that are not in the group."""
        found = self.world.directory.find(account, self.group, self.world.now)
        return [
            Add(package.key_package) for client, package in found.items() if self.group.roster.leaf_of(client) is None
        ]

    def removing(self, account: str) -> list[AnyProposal]:
        """Remove proposals for an account's devices."""
        return [Remove(leaf) for leaf in self.group.roster.leaves_of(account)]

    def resend(self) -> list[Outgoing]:
        """Send outstanding messages again, as a client does when it has read the archive after an interruption."""
        return [self.post(outgoing) for outgoing in self.group.outstanding()]

    # --- reading

    def read(self, limit: int | None = None) -> list[Event]:
        """Process the new stanzas of the room, at most `limit` of them, up to one that a partial member cannot judge.

        :raises ArchiveGap: the archive does not reach back to our position
        """
        events: list[Event] = []
        for number, incoming in enumerate(self.world.room.read(self.account, self.group.cursor)):
            if number == limit:
                break
            events += self.take(incoming)
            if self.group.cursor != incoming.archive_id:
                break  # held
        return events

    def take(self, incoming: Incoming) -> list[Event]:
        """Examine, authenticate and apply one stanza."""
        now = self.world.now
        step = self.group.processing.examine(incoming, now)
        if step.needs_tree:
            return []
        while step.fetch is not None or step.check is not None:
            if step.check is not None:
                incoming = incoming.with_checked(step.check.run())
                step = self.group.processing.examine(incoming, now)
                continue
            assert step.fetch is not None
            if step.fetch not in self.world.web:
                events = self.group.applying.refuse(step, InvalidError("not on the web server"), now)
                self._hear(events)
                return events
            incoming = incoming.with_blob(step.fetch, self.world.web[step.fetch])
            step = self.group.processing.examine(incoming, now)
        if step.join is not None and not self.group.is_member:
            staged = step.join.staged
            error = self.judge_inviter(staged.state.tree.member(staged.inviter))
            if error is not None:
                events = self.group.applying.refuse(step, error, now)
                self._hear(events)
                return events
        doubts = [
            Doubt(ClientIdentity.from_leaf(leaf), self.denies, "asked", str(error), now)
            for leaf in step.leaves
            if (error := self.judge(leaf)) is not None
        ]
        events = self.group.applying.accept(step, now, doubts)
        self._hear(events)
        if any(isinstance(event, Joined | JoinedPartially | GroupContinued) for event in events):
            self.world.directory.replenish(self.device, now)
        return events

    def _hear(self, events: Sequence[Event]) -> None:
        """Pass the events to the application, which handles them at once."""
        self.events += events
        for event in events:
            if isinstance(event, MessageReceived):
                self.group.room_state.handed_over(event.number)
        self.group.room_state.forget_handed_over()

    def bounce(self, outgoing: Outgoing, condition: str = "policy-violation") -> list[Event]:
        """Report to the device that the room has refused a message."""
        events = self.group.bounced(outgoing.origin_id, condition)
        self.events += events
        return events


class World:
    """A room, a directory, a clock, and the participants.

    :ivar now: seconds since the Unix epoch; set it forward at will
    :ivar people: all participants, in the order of creation
    :ivar web: what has been uploaded
    """

    def __init__(
        self,
        *,
        room: str = "coven@rooms.example",
        parameters: Parameters | None = None,
        settings: KeyPackageSettings | None = None,
        random: Random = os.urandom,
        now: int = NOW,
    ) -> None:
        self.room = FakeRoom(room)
        self.directory = FakeDirectory()
        self.parameters = parameters or Parameters()
        self.settings = settings or KeyPackageSettings(count=2)
        self.random = random
        self.now = now
        self.people: list[Participant] = []
        self.web: dict[BlobReference, bytes] = {}

    def upload(self, octets: bytes) -> BlobReference:
        """Put octets on the web server."""
        place = Sealing(octets, self.random).at(f"https://share.example/{len(self.web)}")
        self.web[place] = octets
        return place

    def person(self, account: str, store: Store | None = None) -> Participant:
        """Create a device of an account, invited to the room; its KeyPackages are in the directory."""
        person = Participant(self, store or MemoryStore(account))
        self.people.append(person)
        return person

    def group(self, *accounts: str, policy: RoomPolicy | None = None, suite: int = 1) -> list[Participant]:
        """Create devices of these accounts in one group; the first device creates the group.

        :param policy: by default all are administrators, and later members may do everything else
        """
        people = [self.person(account) for account in accounts]
        people[0].group.lifecycle.create(suite, policy or self.open_policy(*accounts), self.now)
        wanted = [proposal for account in dict.fromkeys(accounts) for proposal in people[0].adding(account)]
        if wanted:
            people[0].commit(*wanted)
            self.settle()
        if any(person.group.state is not MembershipState.MEMBER for person in people):
            raise UsageError("somebody has not come into the group")
        return people

    def open_policy(self, *administrators: str) -> RoomPolicy:
        """A policy that allows all members everything, except removing administrators."""
        return RoomPolicy(
            self.room.jid,
            tuple(dict.fromkeys(administrators)),
            may_add=Right.MEMBERS,
            may_remove=Right.MEMBERS,
            may_change_policy=Right.MEMBERS,
        )

    def settle(self) -> None:
        """Deliver everything that is in flight, and let all participants read."""
        self.room.deliver_all()
        for person in self.people:
            person.read()

    def agree(self) -> bool:
        """Whether all members are in the same state (RFC 9420 8.7)."""
        members = [person for person in self.people if person.group.state is MembershipState.MEMBER]
        return len({person.group.mls.epoch_authenticator for person in members}) == 1
