"""A group in the place of a destroyed room's gives nobody more rights than the old one.

Alice is the administrator of the old group, bob and carol are members.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls.policy import ExternalJoins, Right, RoomPolicy
from slixmpp_mls.rooms.alternate_venue import rights_gained

from ..policy.people import Client, Group

ALICE, BOB, CAROL = map(Client, ("alice@x/1", "bob@x/1", "carol@x/1"))
PEOPLE = {index: client.leaf() for index, client in enumerate((ALICE, BOB, CAROL))}
OLD = Group(RoomPolicy("old@rooms.x", ("alice@x",)), PEOPLE)


def gained(old: Group, new: Group) -> tuple[str, ...]:
    moved = replace(new.policy, room="new@rooms.x")
    return rights_gained(old.view, moved, new.roster)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"administrators": ("bob@x",)}, "bob@x is named as an administrator"),
        ({"administrators": ("bob@x",)}, "bob@x has the right may_remove"),
        ({"administrators": ("alice@x", "spy@x")}, "spy@x is named as an administrator"),
        ({"may_add": Right.MEMBERS}, "carol@x has the right may_add"),
        ({"may_change_subject": Right.MEMBERS}, "bob@x has the right may_change_subject"),
        ({"external_joins": ExternalJoins.ANYBODY}, "more people may join by themselves"),
    ],
)
def test_nobody_gains_a_right_by_the_move(settings: dict[str, Any], told: str) -> None:
    assert told in gained(OLD, OLD.with_policy(**settings))
    assert gained(OLD.with_policy(**settings), OLD.with_policy(**settings)) == ()


def test_without_its_administrator_all_would_have_its_rights() -> None:
    """mls-policy, "Policy Checks": while no administrator is there, every member is one."""
    assert "bob@x has the right may_add" in gained(OLD, OLD.without(0))
    assert gained(OLD.without(0), OLD.without(0)) == ()


def test_a_right_of_later_members_is_one_too() -> None:
    assert gained(OLD.without(1, 2), OLD.with_policy(may_add=Right.MEMBERS).without(1, 2)) == (
        "more people may have the right may_add",
    )


@pytest.mark.parametrize(
    ("strict", "lax", "told"),
    [
        ({"own_devices": False}, {}, "accounts may add their own devices"),
        ({"post_quantum": True}, {}, "it may be in a cipher suite that is not post-quantum"),
        ({"x509_only": True}, {}, "it does not demand the same certificates"),
        ({"x509_only": True, "roots": (bytes(32),)}, {"x509_only": True}, "it does not demand the same certificates"),
        ({"conversation": True}, {}, "it is no conversation of two"),
    ],
)
def test_what_the_old_group_demands_is_demanded(strict: dict[str, Any], lax: dict[str, Any], told: str) -> None:
    assert gained(OLD.with_policy(**strict), OLD.with_policy(**lax)) == (told,)
    assert gained(OLD.with_policy(**strict), OLD.with_policy(**strict)) == ()


def test_it_may_give_fewer() -> None:
    old = OLD.with_policy(administrators=("alice@x", "bob@x"), may_add=Right.MEMBERS)
    assert gained(old, OLD.with_policy(administrators=("bob@x",), external_joins=ExternalJoins.NEVER)) == ()
