"""Rows of docs/misbehaving-service.md that a real server cannot be made to play, in every order."""

from __future__ import annotations

import re
from itertools import permutations, product
from pathlib import Path

import pytest

from slixmpp_mls.client import LeftBehind, MessageReceived, Rejected, Unreadable
from slixmpp_mls.client.group.evidence import Evidence
from slixmpp_mls.errors import NotForUs, Replayed, UnknownGroup
from slixmpp_mls.rooms.epoch_code import EpochComparison, compare_epochs, epoch_code
from slixmpp_mls.testing import Participant, World

from .people import ALICE, BOB, CAROL, again, only, three

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("page", "least"), [("misbehaving-service", 20), ("attacks-on-identity", 20), ("deletion-of-keys", 13)]
)
def test_each_row_of_the_tables_has_a_test_that_exists(page: str, least: int) -> None:
    lines = (DOCS / f"{page}.md").read_text(encoding="utf-8").splitlines()
    heads = [number for number, line in enumerate(lines) if set(line) == {"|", "-"}]
    rows = [line for number, line in enumerate(lines) if line.startswith("| ") and number + 1 not in heads]
    assert len(rows) > least
    for row in rows:
        named = re.findall(r"`([\w/]+)::(\w+)`", row.split("|")[-2])
        assert named, row
        for file, name in named:
            path = Path(__file__).parents[1] / f"{file}.py"
            assert path.is_file(), row
            assert re.search(rf"^ *(async )?def {name}\(", path.read_text(encoding="utf-8"), re.MULTILINE), row


def test_each_kind_of_evidence_has_a_row() -> None:
    text = (DOCS / "deletion-of-keys.md").read_text(encoding="utf-8")
    assert [evidence.name for evidence in Evidence] == re.findall(r"^\| `(\w+)`:", text, re.MULTILINE)


def compare(one: Participant, other: Participant) -> EpochComparison:
    """As two people would."""
    codes = [epoch_code(person.epoch, person.group.mls.epoch_authenticator) for person in (one, other)]
    return compare_epochs(*codes)


VIEWS = (None, 0, 1, "nobody")


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=lambda order: "".join(map(str, order)))
def test_whatever_is_shown_to_whom_nothing_false_is_accepted(order: tuple[int, ...]) -> None:
    """Two Commits and a message; each is shown to everybody, to one side only, or to nobody.

    Carol is alone on her side.  Members that can read each other agree, members that do not agree can find out,
    and what is read has been said, once, by whom it seems.
    """
    for shown in product(VIEWS, repeat=3):
        world, alice, bob, carol = three()
        world.room.split([CAROL])
        alice.send(b"alice")
        alice.commit()
        carol.commit()
        stanzas = [world.room.in_flight[place] for place in order]
        views = [shown[place] for place in order]
        world.room.in_flight = stanzas
        for view in views:
            if view == "nobody":
                world.room.lose()
            else:
                world.room.deliver(to=view)  # type: ignore[arg-type]
        world.settle()
        for person in world.people:
            heard = [(event.sender.account, event.data) for event in person.said(MessageReceived)]
            assert heard in ([], [(ALICE, b"alice")]), (shown, person.account)
            assert not [event for event in person.events if isinstance(event, Rejected)], shown
        assert compare(alice, bob) is EpochComparison.SAME  # they are shown the same
        if alice.epoch == carol.epoch:
            same = alice.group.mls.epoch_authenticator == carol.group.mls.epoch_authenticator
            assert compare(alice, carol) is (EpochComparison.SAME if same else EpochComparison.SPLIT), shown
        else:
            assert compare(alice, carol) is EpochComparison.DIFFERENT_EPOCH, shown


def test_a_split_view_ends_all_understanding() -> None:
    """After two sides have gone on by different Commits, neither reads a word of the other, and says so."""
    world, alice, bob, carol = three()
    world.room.split([CAROL])
    alice.commit()
    carol.commit()
    world.room.deliver(to=0)
    world.room.deliver(to=1)
    world.settle()
    alice.send(b"to carol")
    carol.send(b"to alice")
    world.settle()
    assert carol.texts == alice.texts == []
    assert bob.texts == [b"to carol"]
    for person in (alice, bob, carol):
        assert len([event for event in person.events if isinstance(event, Rejected)]) == 1
    assert compare(alice, carol) is EpochComparison.SPLIT


def test_withheld_messages_are_counted() -> None:
    """RFC 9750 5.2: generations tell how many messages of a sender have not come."""
    world, alice, bob, _ = three()
    for number in range(5):
        alice.send(b"%d" % number)
    for _ in range(3):
        world.room.lose(1)
    world.settle()
    received = [event for event in bob.events if isinstance(event, MessageReceived)]
    assert [(event.data, event.missing) for event in received] == [(b"0", 0), (b"4", 3)]


def test_delayed_messages_are_counted_once_and_readable_when_they_come() -> None:
    world, alice, bob, _ = three()
    for number in range(3):
        alice.send(b"%d" % number)
    world.room.deliver(2)
    bob.read()
    world.settle()
    received = [event for event in bob.events if isinstance(event, MessageReceived)]
    assert [(event.data, event.missing) for event in received] == [(b"2", 2), (b"0", 0), (b"1", 0)]


def test_the_whole_past_again() -> None:
    """All that was ever in the room is put into it once more, under new ids: RFC 9420 9.2, and our rule 1."""
    world, alice, bob, carol = three()
    alice.send(b"once")
    bob.commit()
    world.settle()
    carol.send(b"twice")
    alice.commit(*alice.removing(BOB), *again(alice, bob))
    world.settle()
    before = [(person.epoch, person.group.mls.epoch_authenticator) for person in world.people]
    texts = [person.texts for person in world.people]
    for incoming in list(world.room.archive()):
        world.room.post(incoming.payloads, incoming.claimed, incoming.origin_id)
    world.settle()
    assert [(person.epoch, person.group.mls.epoch_authenticator) for person in world.people] == before
    assert [person.texts for person in world.people] == texts
    for person in world.people:
        for event in person.events:
            assert not isinstance(event, Rejected) or isinstance(event.error, Replayed | NotForUs), event
    alice.send(b"and on")
    world.settle()
    assert bob.texts[-1] == carol.texts[-1] == b"and on"


def test_messages_moved_to_another_room_mean_nothing_there() -> None:
    """The group id, the policy's room, and the envelope's `to` each name the place."""
    here, alice, bob, _ = three()
    there = World(room="heath@rooms.example")
    dave, erin = there.group("dave@d.example", "erin@e.example")
    alice.send(b"for the coven")
    alice.commit()
    bob.post(bob.group.sending.propose_update(here.now))
    for stanza in list(here.room.in_flight):
        there.room.post(stanza.payloads, stanza.claimed, stanza.origin_id)
    epoch = dave.epoch
    there.settle()
    rejected = [event for event in erin.events if isinstance(event, Rejected)]
    assert [type(event.error) for event in rejected] == [UnknownGroup] * 3
    assert (dave.epoch, erin.epoch, erin.texts) == (epoch, epoch, [])
    here.settle()
    assert here.agree()


def test_a_hole_in_the_archive_does_not_go_unnoticed() -> None:
    """A Commit that is kept back from one member, who then meets what comes after it."""
    world, alice, bob, carol = three()
    world.room.split([CAROL])
    alice.commit()
    world.room.deliver(to=0)
    world.settle()
    alice.send(b"after it")
    world.settle()
    assert only(carol.events, LeftBehind).by == ALICE
    assert only(carol.events, Unreadable).reason == "future"
    assert carol.group.behind == {ALICE}
    assert bob.texts == [b"after it"]


@pytest.mark.parametrize("claimed", [None, BOB, "mallory@m.example"])
def test_the_signer_is_named_not_the_sender_that_the_room_names(claimed: str | None) -> None:
    """RFC 9420 6.1: the leaf that has signed is the sender."""
    world, alice, _, carol = three()
    outgoing = alice.group.sending.compose(b"it is I")
    world.room.post(outgoing, claimed)
    world.settle()
    event = only(carol.events, MessageReceived)
    assert event.sender.account == ALICE
    assert event.forged == (claimed is not None)
