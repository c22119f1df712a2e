"""Codes of epochs, as people compare them (RFC 9420 8.7)."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from slixmpp_mls import EpochComparison
from slixmpp_mls.errors import UsageError
from slixmpp_mls.rooms.content import seal_body
from slixmpp_mls.rooms.epoch_code import EpochHistory, compare_epochs, epoch_code, read_epoch_code
from slixmpp_mls.stanza.content_profile import PROFILE
from slixmpp_mls.stanza.sce import Envelope
from slixmpp_mls.testing import NOW, Participant

from ..client.people import ALICE, BOB, CAROL, again, three


def code_of(person: object) -> str:
    group = person.group.mls  # type: ignore[attr-defined]
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
    first, second = alice.group.sending.commit((), NOW), carol.group.sending.commit((), NOW)
    world.room.post(first, ALICE)
    world.room.post(second, CAROL)
    world.room.deliver(0, keep=True, to=0)
    world.room.deliver(1, keep=True, to=1)
    for person in world.people:
        person.read()
    assert alice.epoch == bob.epoch == carol.epoch
    assert compare_epochs(code_of(alice), code_of(carol)) is EpochComparison.SAME
    assert compare_epochs(code_of(alice), code_of(bob)) is EpochComparison.SPLIT


# --- codes in messages: XEP "Epochs in Messages" ---------------------------------------------------


def history_of(person: Participant) -> EpochHistory:
    """The history of somebody whose epochs are noted as soon as they begin."""
    history = EpochHistory()
    note(history, person)
    return history


def note(history: EpochHistory, person: Participant) -> None:
    group = person.group.mls
    history.note(group.group_id, group.epoch, group.epoch_authenticator)


def affixes(history: EpochHistory) -> tuple[Any, ...]:
    """As a reader finds them in an envelope."""
    data = seal_body("by the pricking of my thumbs", ALICE, "coven@rooms.example", NOW, history.to_tell())
    return Envelope.open(data, PROFILE).own


def test_the_first_message_that_crosses_shows_that_the_room_was_split() -> None:
    """Two parts go on by different Commits; one member is led into the other part, and all seems as before."""
    world, alice, bob, carol = three()
    ours, theirs = history_of(carol), history_of(alice)
    world.room.split([CAROL])
    alice.commit()
    carol.commit()
    world.room.deliver(to=0)
    world.room.deliver(to=1)
    world.settle()
    for history, person in ((ours, carol), (theirs, alice)):
        note(history, person)
    world.room._view_of.clear()
    carol.group.lifecycle.give_up("led into the other part")
    alice.commit(*alice.removing(CAROL), *again(alice, carol))
    world.settle()
    assert world.agree()  # whoever compares only the present epoch sees nothing
    for history, person in ((ours, carol), (theirs, alice)):
        note(history, person)
    assert compare_epochs(code_of(alice), code_of(carol)) is EpochComparison.SAME
    assert ours.contradicted_by(affixes(theirs)) == 2
    assert theirs.contradicted_by(affixes(ours)) == 2
    assert history_of(bob).contradicted_by(affixes(theirs)) is None  # he was where alice was


def test_codes_are_told_once_for_each_epoch_and_in_bounds() -> None:
    history = EpochHistory()
    assert history.to_tell() is None
    for epoch in range(300):
        history.note(b"group", epoch, bytes([epoch % 256]) * 32)
    assert [entry.get("number") for entry in affixes(history)[0]] == [str(epoch) for epoch in range(292, 300)]
    assert affixes(history) == ()  # nothing is new
    history.note(b"group", 300, bytes(32))
    assert len(affixes(history)[0]) == 8
    assert len(history._codes) == 256
    history.note(b"another", 0, bytes(32))
    assert [entry.get("number") for entry in affixes(history)[0]] == ["0"]


@pytest.mark.parametrize(
    ("number", "code", "found"),
    [("7", "1" * 40, 7), ("8", "1" * 40, None), ("", "", None), ("7", "x", None), ("-7", "1" * 40, None)],
)
def test_what_others_say_of_epochs_is_read_strictly(number: str, code: str, found: int | None) -> None:
    history = EpochHistory()
    history.note(b"group", 7, bytes(32))
    affix = ET.Element("{urn:xmpp:mls:epochs:0}epochs")
    ET.SubElement(affix, "{urn:xmpp:mls:epochs:0}epoch", {"number": number, "code": code})
    assert history.contradicted_by([affix]) == found
    assert history.contradicted_by([ET.Element("{urn:xmpp:mls:epochs:0}epochs"), affix]) == found
