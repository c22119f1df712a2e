"""Random histories: partial members follow a group of full members, and end with the same state.

After each step all agree on the epoch's context and keys, and what a partial member knows of the tree is true
(:meth:`.PartialRoom.agree`).  Members become partial and full again on the way, and are restarted from their disks.
``MLS_HISTORIES`` sets how many histories are tried (15).
"""

from __future__ import annotations

import os
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from slixmpp_mls.mls.group.commit_creation import CommitOptions
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.partial import PartialGroup
from slixmpp_mls.mls.structures.extensions import ExternalSenders
from slixmpp_mls.mls.structures.proposals import AnyProposal, GroupContextExtensions, PreSharedKey, Remove, SelfRemove
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle
from tests.mls.group_helpers import NOW, bundle, group_info_of
from tests.mls.partial.partial_room import PartialRoom

MOST = 24
HISTORIES = int(os.environ.get("MLS_HISTORIES", "15"))
PSKS = {ExternalPSK(bytes([number])): bytes([number]) * 8 for number in range(3)}


class PartialHistories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.room = PartialRoom(["founder"], [])
        self.counter = 0
        self.disks: dict[str, tuple[PartialGroup, dict[bytes, bytes]]] = {}

    def clients(self, count: int) -> list[KeyPackageBundle]:
        count = max(0, min(count, MOST - len(self.room.all())))
        self.counter += count
        return [bundle(f"client {self.counter - number}") for number in range(count)]

    def a_full(self, number: int) -> str:
        names = sorted(self.room.full)
        return names[number % len(names)]

    def anybody(self, number: int) -> str:
        names = sorted(self.room.all())
        return names[number % len(names)]

    def commit(self, who: int, proposals: tuple[AnyProposal, ...], full: int, partial: int, path: bool | None) -> None:
        options = CommitOptions(path=True if path else None, public=self.counter % 2 == 0)
        joining, partially = self.clients(full), self.clients(partial)
        self.room.commit(
            self.a_full(who), proposals, joining=joining, partially=partially, options=options, psks=PSKS.get
        )

    @initialize(full=st.sampled_from([0, 1, 3, 8]), partial=st.integers(1, 4), path=st.booleans())
    def begin(self, full: int, partial: int, path: bool) -> None:
        self.commit(0, (), full, partial, path)

    @rule(who=st.integers(0, 99), path=st.booleans())
    def renews(self, who: int, path: bool) -> None:
        self.commit(who, (), 0, 0, path)

    @rule(who=st.integers(0, 99), full=st.integers(0, 4), partial=st.integers(0, 3), path=st.booleans())
    def adds(self, who: int, full: int, partial: int, path: bool) -> None:
        self.commit(who, (), full, partial, path)

    @rule(who=st.integers(0, 99), whom=st.lists(st.integers(0, 99), min_size=1, max_size=4), adding=st.booleans())
    def removes(self, who: int, whom: list[int], adding: bool) -> None:
        committer = self.room.full[self.a_full(who)].own_index
        leaves = {self.room.all()[self.anybody(number)].own_index for number in whom} - {committer}
        removes = tuple(Remove(leaf) for leaf in sorted(leaves))
        self.commit(who, removes, 0, 1 if adding else 0, None)

    @rule(who=st.integers(0, 99), number=st.integers(0, 2))
    def injects_a_psk(self, who: int, number: int) -> None:
        name = PreSharedKeyID(ExternalPSK(bytes([number])), os.urandom(32))
        self.commit(who, (PreSharedKey(name),), 0, 0, None)

    @rule(who=st.integers(0, 99), there=st.booleans())
    def changes_extensions(self, who: int, there: bool) -> None:
        extensions = (ExternalSenders(()).extension(),) if there else ()
        self.commit(who, (GroupContextExtensions(extensions),), 0, 0, None)

    @rule(who=st.integers(0, 99), public=st.booleans())
    def proposes_update(self, who: int, public: bool) -> None:
        self.room.propose_update(self.anybody(who), public=public)

    @rule(who=st.integers(0, 99), whom=st.integers(0, 99), public=st.booleans())
    def proposes_removal(self, who: int, whom: int, public: bool) -> None:
        leaf = self.room.all()[self.anybody(whom)].own_index
        if len(self.room.full) > 1:
            self.room.propose(self.anybody(who), Remove(leaf), public=public)

    @precondition(lambda self: self.room.partial)
    @rule(who=st.integers(0, 99))
    def wants_to_leave(self, who: int) -> None:
        names = sorted(self.room.partial)
        name = names[who % len(names)]
        waiting = self.room.partial[name].pending_proposals
        if not any(isinstance(sent.proposal, SelfRemove) for sent in waiting):
            self.room.propose(name, SelfRemove())

    @rule(who=st.integers(0, 99))
    def joins_from_outside(self, who: int) -> None:
        for client in self.clients(1):
            helper = self.room.full[self.a_full(who)]
            made = Group.external_commit(group_info_of(helper), client.own_leaf, now=NOW)
            self.room.settle("the new one", made, helper)
            self.room.full[f"from outside {self.counter}"] = cast(Group, made.staged.next)

    @rule(who=st.integers(0, 99))
    def says(self, who: int) -> None:
        state: Any = self.room.all()[self.anybody(who)]
        if not state.public.proposal_order:
            self.room.say(self.anybody(who))

    @precondition(lambda self: len(self.room.full) > 1)
    @rule(who=st.integers(0, 99))
    def becomes_partial(self, who: int) -> None:
        name = self.a_full(who)
        self.room.partial[name] = PartialGroup.downgrade(self.room.full.pop(name))

    @precondition(lambda self: self.room.partial)
    @rule(who=st.integers(0, 99))
    def becomes_full(self, who: int) -> None:
        names = sorted(self.room.partial)
        name = names[who % len(names)]
        whole = self.room.full[self.a_full(who)]
        upgraded = self.room.partial.pop(name).upgrade(whole.tree.encode())
        assert tuple(upgraded.members()) == tuple(whole.members())
        self.room.full[name] = upgraded

    @rule()
    def restarts(self) -> None:
        for name, partial in self.room.partial.items():
            self.room.partial[name] = PartialGroup.restore(partial.pieces().items())
            assert self.room.partial[name].pieces() == partial.pieces()

    @invariant()
    def all_agree(self) -> None:
        self.room.agree()

    @invariant()
    def disks_hold_the_state(self) -> None:
        """Each is told changes only, as a store is."""
        disks = {}
        for name, partial in self.room.partial.items():
            base, disk = self.disks.get(name, (None, {}))
            if base is None:
                disk = partial.pieces()
            else:
                for key, value in partial.changes_since(base).items():
                    if value is None:
                        disk.pop(key, None)
                    else:
                        disk[key] = value
            assert disk == partial.pieces()
            self.room.partial[name] = partial.stored()
            disks[name] = (self.room.partial[name], disk)
        self.disks = disks


TestPartialHistories = PartialHistories.TestCase
TestPartialHistories.pytestmark = [pytest.mark.timeout(600 + 10 * HISTORIES)]  # type: ignore[attr-defined]
TestPartialHistories.settings = settings(
    max_examples=HISTORIES,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
