"""The budget of questions that others cause."""

from __future__ import annotations

from slixmpp_mls.runtime.question_budget import BURST, PAUSE, QuestionBudget


def test_it_is_full_at_first_is_used_up_and_fills_slowly() -> None:
    now = 100.0
    budget = QuestionBudget(lambda: now)
    assert budget.take(-3) == 0
    assert budget.take(BURST - 1) == BURST - 1
    assert budget.take(600) == 1
    assert budget.take(600) == 0
    now += 2.5 * PAUSE
    assert budget.take(600) == 2
    now += 0.5 * PAUSE
    assert budget.take(600) == 1
    now += 10 * BURST * PAUSE
    assert budget.take(10_000) == BURST
    now -= 1000.0  # no clock does that; it costs nothing
    assert budget.take(1) == 0
