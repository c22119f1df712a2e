"""Codes of epochs, as people compare them (RFC 9420 8.7)."""

from __future__ import annotations

import os
import re
from hashlib import sha256

import pytest

from slixmpp_mls import EpochComparison
from slixmpp_mls.errors import UsageError
from slixmpp_mls.rooms.epoch_code import compare_epochs, epoch_code, read_epoch_code
from slixmpp_mls.testing import NOW

from ..client.people import ALICE, BOB, CAROL, three


def code_of(person: object) -> str:
    group = person.session.group  # type: ignore[attr-defined]
    return epoch_code(group.epoch, group.epoch_authenticator)


def test_a_code_is_made_as_the_specification_says() -> None:
    authenticator = bytes(range(32))
    number = int(sha256(b"urn:xmpp:mls:0 epoch code" + authenticator).hexdigest(), 16) % 10**40
    code = epoch_code(7, authenticator)
    assert re.fullmatch(r"7: (\d{5} ){7}\d{5}", code)
    assert int(code.removeprefix("7: ").replace(" ", "")) == number


@pytest.mark.parametrize("typed", ["{}", "  {} ", "7 :{digits}", "7:\n{digits}", "7: {dashes}"])
def test_what_people_make_of_a_code_is_still_the_code(typed: str) -> None:
    code = epoch_code(7, os.urandom(32))
    digits = code.removeprefix("7: ").replace(" ", "")
    text = typed.format(code, digits=digits, dashes="-".join(re.findall("....", digits)))
    assert read_epoch_code(text) == (7, digits)
    assert compare_epochs(code, text) is EpochComparison.SAME


@pytest.mark.parametrize(
    "text", ["", "7", "7:", "7: 12345", "7: " + "1" * 41, "-1: " + "1" * 40, "x: " + "1" * 40, "\u0667: " + "1" * 40]
)
def test_what_is_no_code_is_not_compared(text: str) -> None:
    with pytest.raises(UsageError):
        compare_epochs(epoch_code(7, bytes(32)), text)


def test_members_of_one_view_have_one_code() -> None:
    world, alice, bob, carol = three()
    assert code_of(alice) == code_of(bob) == code_of(carol)
    before = code_of(alice)
    alice.commit()
    world.settle()
    assert code_of(alice) == code_of(bob)
    assert compare_epochs(before, code_of(bob)) is EpochComparison.DIFFERENT_EPOCH


def test_members_of_two_views_find_out() -> None:
    """A server shows two Commits of one epoch in two orders; RFC 9420 8.7, 16.5."""
    world, alice, bob, carol = three()
    world.room.split([BOB])
    first, second = alice.session.commit((), NOW), carol.session.commit((), NOW)
    world.room.post(first, ALICE)
    world.room.post(second, CAROL)
    world.room.deliver(0, keep=True, to=0)
    world.room.deliver(1, keep=True, to=1)
    for person in world.people:
        person.read()
    assert alice.epoch == bob.epoch == carol.epoch
    assert compare_epochs(code_of(alice), code_of(carol)) is EpochComparison.SAME
    assert compare_epochs(code_of(alice), code_of(bob)) is EpochComparison.SPLIT
