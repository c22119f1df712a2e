"""The honest side: members, what they do by themselves, and what they rightly wish.

A person here does what the plugin's engine does for a bot: reads, commits what waits, sends again what has not come
back, returns if it has lost the group.  Whatever an honest person wishes is noted before it is done (`invited`,
`expelled`, `admitted`): the invariants compare what has happened with these notes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from random import Random

from slixmpp_mls.client import Event, Incoming, MessageReceived
from slixmpp_mls.client.group.group_infos import group_infos_in
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.errors import ArchiveGap, InvalidError, MLSError, NotPermitted, PeerError, UsageError
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.parameters import HOUR, Parameters
from slixmpp_mls.mls.structures.leaf_node import LeafNode
from slixmpp_mls.mls.structures.proposals import Add, Remove
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.policy import ExternalJoins, RoomPolicy
from slixmpp_mls.stanza import elements
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import Participant, World

__all__ = ["ALICE", "BOB", "CAROL", "DAVE", "HONEST", "MALLORY", "SUITE", "Scene", "Spoken"]

ALICE, BOB, CAROL, DAVE = "alice@a.example", "bob@b.example", "carol@c.example", "dave@d.example"
MALLORY = "mallory@m.example"
HONEST = frozenset((ALICE, BOB, CAROL, DAVE))
"""Accounts whose people keep to the rules.  Dave is not in the group at first."""
SUITE = 1


@dataclass(frozen=True, slots=True)
class Spoken:
    """What somebody honest has sent.

    :ivar readers: public encryption keys of the leaves in the sender's tree when it was encrypted
    :ivar message: the MLSMessage
    """

    speaker: str
    data: bytes
    readers: frozenset[bytes]
    message: bytes = field(repr=False)


class Scene:
    """A room with honest people in it.

    Alice is the administrator, and the others have no rights but over their own devices.

    :ivar people: honest devices, Alice's first; each is in `world.people`
    :ivar invited: honest clients that belong into the group: somebody who may has let them in
    :ivar leaving: honest clients whose removal somebody rightly wishes
    :ivar removed: honest accounts that Alice has removed, perhaps to invite them again
    :ivar admitted: accounts of the adversary's that Alice has let in
    :ivar expelled: accounts that Alice has removed, and the epoch since which they are gone for her
    :ivar spoken: what honest people have sent
    :ivar history: of each honest device, the epoch authenticator of each epoch that it was in
    :ivar seen: of each honest device, the honest clients that it has seen in its tree since it came in
    :ivar slowest: seconds of processor time of the slowest step, and what it was
    """

    def __init__(self, *, joins: ExternalJoins, own_devices: bool, with_mallory: bool, seed: int = 0) -> None:
        self.random = Random(seed)
        self.world = World(random=self.random.randbytes, parameters=Parameters())
        self.policy = RoomPolicy(
            self.world.room.jid, (ALICE,), external_joins=joins, own_devices=own_devices, max_devices=4
        )
        accounts = [ALICE, BOB, CAROL, *([MALLORY] if with_mallory else [])]
        joined = self.world.group(*accounts, policy=self.policy, suite=SUITE)
        self.people = joined[:3]
        self.alice, self.bob, self.carol = self.people
        self.group_id = self.alice.group.mls.group_id
        self.mallory = joined[3] if with_mallory else None
        if self.mallory is not None:
            self.world.people.remove(self.mallory)  # it reads when it likes
        self.invited = {person.device.identity for person in self.people}
        self.leaving: set[ClientIdentity] = set()
        self.removed: set[str] = set()
        self.admitted = {MALLORY} if with_mallory else set()
        self.expelled: dict[str, int] = {}
        self._to_expel: set[str] = set()
        #: Clients that Alice has removed, or has tried to.
        self.put_out: set[ClientIdentity] = set()
        self.spoken: list[Spoken] = []
        self.history: dict[int, dict[int, bytes]] = {}
        self.seen: dict[int, set[ClientIdentity]] = {}
        self.slowest = (0.0, "")
        self.said = 0
        self.look()

    # --- doing ---------------------------------------------------------------------------------

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Notes how much processor time something honest takes."""
        begun = time.process_time()
        yield
        taken = time.process_time() - begun
        if taken > self.slowest[0]:
            self.slowest = (taken, what)

    def serve(self, person: Participant) -> None:
        """Read what is there, as the engine does; an archive that has expired is read from where it begins."""
        room, session = self.world.room, person.group
        try:
            waiting = list(room.read(person.account, session.cursor))
        except ArchiveGap:
            waiting = [each for each in room.archive(person.account) if each.archive_id > (session.cursor or "")]
        person.judge_inviter = self._judge_inviter
        for incoming in waiting:
            with self.timed("reading"):
                person.take(incoming)
            self._inquiries_read(person, incoming)
        self.look()

    def _judge_inviter(self, leaf: LeafNode) -> PeerError | None:
        """The Authentication Service: Alice's server is honest, and says which keys are hers."""
        client = ClientIdentity.from_leaf(leaf)
        keys = {
            person.device.signature_key(CipherSuite.get(SUITE)).public
            for person in self.people
            if person.account == client.account
        }
        if client.account == MALLORY and MALLORY in self.admitted:
            return None
        return None if leaf.signature_key in keys else InvalidError(f"{client} is unknown", "RFC 9420 5.3.1")

    def serve_all(self) -> None:
        for person in self.people:
            self.serve(person)

    def settle(self, *, rounds: int = 4) -> None:
        """Everything in flight arrives, everybody reads, and commits what waits if it may."""
        for _ in range(rounds):
            self.world.room.deliver_all()
            self.serve_all()
            if not self.commit_for_others():
                break
        self.world.room.deliver_all()
        self.serve_all()

    def commit_for_others(self) -> bool:
        """One member commits what others have proposed, as the engine does."""
        for person in self.people:
            if self.is_member(person) and not person.group.sending.commit_waits:
                with self.timed("looking whether a Commit is needed"):
                    needed = person.group.sending.needs_commit
                if needed:
                    with self.timed("committing"), suppress(UsageError, NotPermitted):
                        person.commit()
                        return True
        return False

    @staticmethod
    def is_member(person: Participant) -> bool:
        return person.group.state is MembershipState.MEMBER

    def members(self) -> list[Participant]:
        return [person for person in self.people if self.is_member(person)]

    def look(self) -> None:
        """Note where everybody is."""
        for person in self.members():
            group = person.group.mls
            self.history.setdefault(id(person), {})[group.epoch] = group.epoch_authenticator
            present = self.seen.setdefault(id(person), set())
            present |= {client for client in self.invited if person.group.roster.leaf_of(client) is not None}
        if self.is_member(self.alice):
            for account in list(self._to_expel):
                if not self.alice.group.roster.has(account):
                    self._to_expel.discard(account)
                    self.expelled[account] = self.alice.epoch

    # --- what honest people wish ---------------------------------------------------------------

    def speak(self, person: Participant) -> None:
        """Say something that nobody has said before."""
        if not self.is_member(person):
            return
        self.said += 1
        data = b"word %d of %s" % (self.said, person.account.encode())
        try:
            with self.timed("speaking"):
                outgoing = person.group.sending.compose(data)
        except (UsageError, NotPermitted, PeerError):
            return  # proposals wait; the engine would commit them first
        readers = frozenset(leaf.encryption_key for _, leaf in person.group.mls.members())
        (payload,) = outgoing.payloads
        assert isinstance(payload, elements.Application)
        self.spoken.append(Spoken(person.account, data, readers, payload.data))
        person.post(outgoing)

    def renew(self, person: Participant) -> None:
        """Post-compromise security: new keys for one's own leaf."""
        if self.is_member(person) and not person.group.sending.commit_waits:
            with self.timed("renewing"):
                person.commit()

    def propose_update(self, person: Participant) -> None:
        if self.is_member(person):
            with suppress(UsageError, NotPermitted):
                person.post(person.group.sending.propose_update(self.world.now))

    def invite(self, account: str) -> None:
        """Alice adds an account's devices: those whose keys she has compared."""
        if not self.is_member(self.alice) or self.alice.group.sending.commit_waits:
            return
        genuine = {person.device.signature_key(self.alice.group.mls.suite).public for person in self.people}
        wanted = [
            add
            for add in self.alice.adding(account)
            if account not in HONEST or add.key_package.leaf_node.signature_key in genuine  # type: ignore[union-attr]
        ]
        if not wanted:
            return
        if account in HONEST:
            clients = {ClientIdentity.from_leaf(add.key_package.leaf_node) for add in wanted}  # type: ignore[union-attr]
            self.invited |= clients
            self.leaving -= clients
            for person in self.people:  # whoever has not read its removal yet is out until it reads the Welcome
                if person.device.identity in clients:
                    self.seen.pop(id(person), None)
            for present in self.seen.values():
                present -= clients  # removed before, by Alice: nobody has them until this Commit counts
        else:
            self.admitted.add(account)
            self.expelled.pop(account, None)
            self._to_expel.discard(account)
        # Her Authentication Service denies what came in by itself in the account's name: her client removes it.
        roster, members = self.alice.group.roster, dict(self.alice.group.mls.members())
        false = [leaf for leaf in roster.leaves_of(account) if members[LeafIndex(leaf)].signature_key not in genuine]
        if account in HONEST:
            self.put_out |= {roster.at(leaf) for leaf in false}
            wanted += [Remove(LeafIndex(leaf)) for leaf in false]
        with suppress(UsageError, NotPermitted):
            self.alice.commit(*wanted)

    def remove(self, account: str) -> None:
        """Alice removes an account."""
        if not self.is_member(self.alice) or self.alice.group.sending.commit_waits or account == ALICE:
            return
        leaves = list(self.alice.group.roster.leaves_of(account))
        if not leaves:
            return
        self.leaving |= {client for client in self.invited if client.account == account}
        self.put_out |= {self.alice.group.roster.at(leaf) for leaf in leaves}
        self.removed.add(account)
        with suppress(UsageError, NotPermitted):
            self.alice.commit(*(Remove(LeafIndex(leaf)) for leaf in leaves))
            if account not in HONEST:
                self._to_expel.add(account)

    def new_device(self, account: str) -> None:
        """A second device, for which the first one vouches, comes in by itself."""
        first = next((person for person in self.people if person.account == account), None)
        if first is None or not self.is_member(first) or sum(person.account == account for person in self.people) > 1:
            return
        fresh = self.world.person(account, MemoryStore(account))
        self.people.append(fresh)
        first.vouch_for(fresh)
        self.invited.add(fresh.device.identity)
        self.serve(fresh)
        self.come_in(fresh)

    def newcomer(self, account: str) -> Participant:
        """Somebody honest appears who is not in the group yet, with KeyPackages in the directory."""
        person = next((each for each in self.people if each.account == account), None)
        if person is None:
            person = self.world.person(account, MemoryStore(account))
            self.people.append(person)
        # It reads the room because of Alice's invitation, which says into which group, and by whom.
        person.group.lifecycle.expect_group(self.group_id, ALICE)
        return person

    def lose(self, person: Participant) -> None:
        """Somebody gives its state up by its own decision, and wants to come back."""
        if self.is_member(person):
            person.group.lifecycle.give_up("lost")
            self.seen.pop(id(person), None)

    # --- finding out ---------------------------------------------------------------------------

    def _inquiries_read(self, person: Participant, incoming: Incoming) -> None:
        """Answer who asks where the group is, and take answers, as the engine does."""
        certainty, now = person.group.certainty, self.world.now
        for payload in incoming.payloads:
            if not self.is_member(person):
                return
            with suppress(PeerError):
                if isinstance(payload, elements.Inquiry):
                    asked = certainty.judge(payload)
                    if asked is not None and not certainty.pause(asked, now):
                        with self.timed("answering"):
                            person.post(certainty.answer(asked, now))
                elif isinstance(payload, elements.Answer):
                    with self.timed("taking an answer"):
                        person.events += certainty.take_answer(payload, now)

    def find_out(self) -> bool:
        """Whoever is unsure looks into the archive, and asks.

        :returns: whether anybody was
        """
        unsure = [person for person in self.members() if person.group.holds]
        for person in unsure:
            certainty = person.group.certainty
            if not person.group.returning:
                read = [
                    (each.archive_id, each.payloads)
                    for each in self.world.room.archive(person.account)
                    if each.archive_id <= (person.group.cursor or "")
                ]
                person.events += certainty.take_archive(group_infos_in(read), self.world.now)[0]
            if person.group.holds and not person.group.returning:
                person.post(certainty.inquire(self.world.now))
        return bool(unsure)

    def act_on_answers(self) -> None:
        """Whoever knows now where the group is returns; whoever has been told nothing else goes on."""
        for person in self.members():
            certainty = person.group.certainty
            if person.group.returning:
                self._return(person)
            elif person.group.holds:
                person.events += certainty.become_sure(self.world.now)

    def _return(self, person: Participant) -> None:
        """By an external Commit if the policy allows it, else by a request."""
        session, door = person.group, person.group.certainty.proving_info
        if session.external_commits.waits or door is None:
            return
        try:
            person.post(
                session.external_commits.finish(
                    session.external_commits.draft(door, self.world.now), self.world.now, again=True
                )
            )
        except MLSError:
            due = session.join_requests.asking_at(self.world.now)
            if due is not None and due <= self.world.now:
                person.ask()
            elif due is None:
                session.certainty.forget_proving_info()  # it has asked in this epoch; find out again

    # --- coming back ---------------------------------------------------------------------------

    def come_in(self, person: Participant) -> None:
        """By an external Commit if there is a way, else by a request."""
        session = person.group
        if self.is_member(person) or session.external_commits.waits or session.state is MembershipState.OUT:
            return
        shown = ((each.archive_id, each.payloads) for each in self.world.room.archive(person.account))
        ways, _ = session.group_infos.ways_in(group_infos_in(shown), self.world.now)
        if session.room_state.known() is None:
            ways = []  # a client that was never a member asks, as the engine does
        for way in ways[:3]:
            try:
                person.enter(way.group_info)
            except MLSError:
                continue
            return
        due = session.join_requests.asking_at(self.world.now)
        if due is not None and due <= self.world.now:
            person.ask()

    def converge(self) -> list[str]:
        """The adversary has stopped, the room is as rooms are: everybody gets together again.

        :returns: what is wrong; empty if all agree and hear each other
        """
        room = self.world.room
        room._view_of.clear()  # one room for all, from now on
        for turn in range(16):
            self.world.now += 2 * HOUR
            for person in self.people:
                self.world.directory.replenish(person.device, self.world.now)
            for person in self.members():  # what got lost is sent again, as the engine does when it is overdue
                for outgoing in person.group.sending.outstanding():
                    person.post(outgoing)
            self.settle()
            if self._together():
                break
            if self.find_out():
                self.settle(rounds=1)
                self.act_on_answers()
                self.settle(rounds=1)
            if turn > 3:
                self._help()
            for person in self.people:
                session = person.group
                if turn > 9 and self.is_member(person) and self._cannot_follow(person):  # its user wants it
                    person.events += session.lifecycle.give_up("left behind")
                    self.seen.pop(id(person), None)
                if self.is_member(person):
                    for outgoing in session.outstanding():
                        person.post(outgoing)
                else:
                    self.come_in(person)
                    self.settle(rounds=1)
            for person in self.members():
                self.speak(person)
            room.deliver_all()
            self.serve_all()
            if self.is_member(self.alice) and not self.alice.group.sending.commit_waits:
                self.alice.commit()
        self.settle()
        if not self._together():
            return [f"not together: {self.describe()}"]
        wrong = []
        for speaker in self._wanted():
            before = len(self.spoken)
            for _ in range(4):  # proposals may have to be committed first
                self.speak(speaker)
                self.settle()
                if len(self.spoken) > before:
                    break
            else:
                wrong.append(f"{speaker} cannot speak: {self.describe()}")
                continue
            said = self.spoken[-1]
            wrong += [
                f"{listener} does not hear {speaker}"
                for listener in self._wanted()
                if listener is not speaker and said.data not in listener.texts
            ]
        return wrong

    def _cannot_follow(self, person: Participant) -> bool:
        """Whether somebody has missed Commits of the latest epoch: in place of an answer that is signed when asked."""
        sides: dict[bytes, list[Participant]] = {}
        for each in self.members():
            sides.setdefault(each.group.mls.epoch_authenticator, []).append(each)
        if not sides:
            return False
        most = max(sides.values(), key=lambda side: (side[0].epoch, len(side), self.alice in side))
        theirs = self.history[id(most[0])]
        if person in most:
            return False
        return person.epoch < most[0].epoch or theirs.get(person.epoch) != person.group.mls.epoch_authenticator

    def _help(self) -> None:
        """Alice adds afresh whoever does not come in by itself; a Commit of hers may have lost."""
        for person in self._wanted():
            if self.is_member(person) or not self.is_member(self.alice) or self.alice.group.sending.commit_waits:
                continue
            found = self.world.directory.find(person.account, self.alice.group, self.world.now)
            package = found.get(person.device.identity)
            if (
                package is None
                or package.leaf.signature_key != person.device.signature_key(CipherSuite.get(SUITE)).public
            ):
                continue
            leaf = self.alice.group.roster.leaf_of(person.device.identity)
            old = [] if leaf is None else [Remove(LeafIndex(leaf))]
            self.alice.commit(*old, Add(package.key_package))
            self.settle(rounds=1)

    def _wanted(self) -> list[Participant]:
        wanted = self.invited - self.leaving
        return [person for person in self.people if person.device.identity in wanted]

    def _together(self) -> bool:
        wanted = self._wanted()
        states = {person.group.mls.epoch_authenticator for person in wanted if self.is_member(person)}
        return all(map(self.is_member, wanted)) and len(states) == 1

    def describe(self) -> str:
        """Where everybody is, for people."""
        lines = []
        for person in self.people:
            session = person.group
            where = session.state.name
            if self.is_member(person):
                where += f" {session.mls.epoch}:{session.mls.epoch_authenticator.hex()[:6]}"
            lines.append(f"{person.device.identity} {where}")
        return "; ".join(lines)

    def received(self, person: Participant) -> list[MessageReceived]:
        return [event for event in person.events if isinstance(event, MessageReceived)]

    def events(self) -> Iterator[tuple[Participant, Event]]:
        for person in self.people:
            for event in person.events:
                yield person, event
