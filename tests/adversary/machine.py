"""Both sides in one state machine: hypothesis chooses powers, policy and acts, and shortens what breaks something."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from slixmpp_mls.policy import ExternalJoins

from . import recovery_acts as recovery_acts  # they are in the catalogue then
from .acts import CATALOGUE
from .adversary import Adversary, Power
from .invariants import broken, overfull, storage
from .scene import ALICE, BOB, CAROL, DAVE, MALLORY, Scene
from .theft import steal

__all__ = ["FIGURES", "Hostilities"]

FIGURES: Counter[str] = Counter()
"""How often each act was done, over all runs; and `steps`, `runs`, the largest store."""

ALL = Power.OCCUPANT | Power.MEMBER | Power.ROOM | Power.ACCOUNT
COMBINATIONS = [Power(number) for number in range(1, ALL.value + 1)]


class Hostilities(RuleBasedStateMachine):
    """One run: an adversary with some of the powers against three members.

    :cvar forges_doors: see :class:`.Adversary`
    :cvar left_out: acts that are not tried
    """

    forges_doors = True
    left_out: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.scene: Scene | None = None
        self.adversary: Adversary | None = None

    @initialize(
        powers=st.sampled_from(COMBINATIONS),
        joins=st.sampled_from(list(ExternalJoins)),
        own_devices=st.booleans(),
        seed=st.integers(0, 2**16),
    )
    def meet(self, powers: Power, joins: ExternalJoins, own_devices: bool, seed: int) -> None:
        with_mallory = bool(powers & Power.MEMBER)
        if with_mallory:
            powers |= Power.OCCUPANT  # a member is in the room
        self.scene = Scene(joins=joins, own_devices=own_devices, with_mallory=with_mallory, seed=seed)
        self.adversary = Adversary(self.scene, powers, forges_doors=self.forges_doors)
        FIGURES["runs"] += 1

    @property
    def free(self) -> bool:
        """Whether the room is nobody's: what is sent arrives."""
        return self.adversary is not None and not self.adversary.powers & Power.ROOM

    def after(self) -> None:
        """A room that is nobody's delivers, and people read."""
        assert self.scene is not None
        assert self.adversary is not None
        if self.free:
            self.scene.settle()
        else:
            self.scene.serve_all()
        if self.scene.find_out():
            if self.free:
                self.scene.settle(rounds=1)
            else:
                self.scene.serve_all()
            self.scene.act_on_answers()
            if self.free:
                self.scene.settle(rounds=1)
        self.adversary.follow()

    # --- hostile -------------------------------------------------------------------------------

    @rule(number=st.integers(0, 2**16), seed=st.integers(0, 2**16))
    def hostile(self, number: int, seed: int) -> None:
        """One of the acts that these powers allow."""
        assert self.scene is not None
        assert self.adversary is not None
        able = [
            name
            for name, act in sorted(CATALOGUE.items())
            if self.adversary.powers & act.needs == act.needs and name not in self.left_out
        ]
        if not able:
            return
        name = able[number % len(able)]
        note(name)
        FIGURES[f"act {name}"] += 1
        CATALOGUE[name].do(self.adversary, Random(seed))
        self.after()

    hostile_2 = hostile_3 = hostile_4 = hostile_5 = hostile

    @precondition(lambda self: self.free and not self.adversary.stolen)
    @rule()
    def theft(self) -> None:
        """Bob's store is copied, and then he renews his keys."""
        assert self.scene is not None
        assert self.adversary is not None
        steal(self.adversary)
        FIGURES["act theft"] += 1
        self.after()

    # --- honest --------------------------------------------------------------------------------

    @rule(who=st.sampled_from([ALICE, BOB, CAROL]))
    def speak(self, who: str) -> None:
        self._by(who, "speak")

    @rule(who=st.sampled_from([ALICE, BOB, CAROL]), commit=st.booleans())
    def renew(self, who: str, commit: bool) -> None:
        self._by(who, "renew" if commit else "propose_update")

    @rule(who=st.sampled_from([BOB, DAVE, MALLORY]))
    def invite(self, who: str) -> None:
        assert self.scene is not None
        if who == DAVE:
            self.scene.newcomer(who)
        self.scene.invite(who)
        self.after()

    @rule(who=st.sampled_from([CAROL, MALLORY, MALLORY, DAVE]))
    def remove(self, who: str) -> None:
        assert self.scene is not None
        self.scene.remove(who)
        self.after()

    @rule(who=st.sampled_from([ALICE, BOB]))
    def new_device(self, who: str) -> None:
        assert self.scene is not None
        if self.scene.policy.own_devices:
            self.scene.new_device(who)
            self.after()

    @precondition(lambda self: self.free and sum(map(self.scene.is_member, self.scene.people)) > 2)
    @rule(who=st.sampled_from([ALICE, BOB, CAROL]))
    def lose_and_return(self, who: str) -> None:
        assert self.scene is not None
        person = next(person for person in self.scene.people if person.account == who)
        self.scene.lose(person)
        self.scene.come_in(person)
        self.after()

    @rule(who=st.sampled_from([ALICE, BOB, CAROL]))
    def restart(self, who: str) -> None:
        self._by(who, None)

    @rule()
    def time_passes(self) -> None:
        assert self.scene is not None
        self.scene.world.now += 3600
        self.scene.world.room.deliver_all()
        self.after()

    def _by(self, who: str, deed: str | None) -> None:
        assert self.scene is not None
        person = next(person for person in self.scene.people if person.account == who)
        if deed is None:
            person.restart()
        else:
            getattr(self.scene, deed)(person)
        self.after()

    # --- judged --------------------------------------------------------------------------------

    @invariant()
    def nothing_is_broken(self) -> None:
        if self.scene is None or self.adversary is None:
            return
        FIGURES["steps"] += 1
        wrong = broken(self.scene, self.adversary)
        assert not wrong, wrong

    def teardown(self) -> None:
        if self.scene is None or self.adversary is None:
            return
        wrong = self.scene.converge()
        wrong += broken(self.scene, self.adversary) + overfull(self.scene)
        for person in self.scene.people:
            rows, octets = storage(person)
            FIGURES["largest store, rows"] = max(FIGURES["largest store, rows"], rows)
            FIGURES["largest store, octets"] = max(FIGURES["largest store, octets"], octets)
        slowest = int(self.scene.slowest[0] * 1000)
        FIGURES["slowest step, ms"] = max(FIGURES["slowest step, ms"], slowest)
        assert not wrong, wrong
