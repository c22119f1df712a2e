"""A short run of the harness; and that it finds what it is there to find."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from slixmpp_mls.client.group import committable_proposals
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.policy import admission
from slixmpp_mls.policy.admission import Arrival, Ground, JudgedCommit

from .acts import CATALOGUE
from .machine import Hostilities


def run(machine: type[Hostilities], runs: int, steps: int) -> None:
    """So many runs, the same ones each time, without a search for the shortest one that fails.

    ``python -m tests.adversary`` has other runs each time, and does search.
    """
    how = settings(
        max_examples=runs,
        derandomize=True,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(machine, settings=how)


def only(*names: str) -> frozenset[str]:
    """All acts but these."""
    assert set(names) <= set(CATALOGUE)
    return frozenset(CATALOGUE) - set(names)


def test_whatever_the_adversary_does() -> None:
    run(Hostilities, 28, 12)


class Ghosts(Hostilities):
    left_out = only("ghost_by_external_commit", "coup_by_a_ghost", "withhold")


class Usurpers(Hostilities):
    left_out = only("usurp", "ghost_asks", "withhold")


class Thieves(Hostilities):
    left_out = only("thief_returns", "withhold")


# A harness that finds nothing may be blind.  Each of these takes one rule away, and it must say so.  It ends as soon as
# it does, so that many runs cost nothing.


def test_it_sees_that_anybody_comes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def admit(self: JudgedCommit, change: Any) -> Arrival:
        return Arrival(ClientIdentity.from_leaf(change.after), Ground.RIGHT)

    monkeypatch.setattr(JudgedCommit, "admit", admit)
    with pytest.raises(AssertionError, match=r"the adversary's|let this account in|nobody"):
        run(Ghosts, 250, 8)


def test_it_sees_that_anybody_has_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JudgedCommit, "may", lambda self, right, leaf: True)
    with pytest.raises(AssertionError, match=r"removed|policy|let this account in|let it in|the adversary's"):
        run(Usurpers, 250, 8)


def test_it_sees_that_a_thief_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "proves_return", lambda *anything: True)
    monkeypatch.setattr(committable_proposals, "proves_return", lambda *anything: True)
    with pytest.raises(AssertionError, match="its key is the adversary's"):
        run(Thieves, 250, 10)
