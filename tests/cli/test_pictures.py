"""Pictures of a store's groups, and of what a structure has in clear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from typer.testing import CliRunner

from slixmpp_mls.cli import app, inspect
from slixmpp_mls.cli.pictures import Picture, age, sentence, svg, timeline, tree
from slixmpp_mls.client.storage import epoch_log
from slixmpp_mls.client.storage.epoch_log import EpochRecord
from slixmpp_mls.errors import UsageError
from slixmpp_mls.mls.structures.parent_node import RatchetTreeExtension
from slixmpp_mls.store import SQLiteStore, copy_all
from slixmpp_mls.testing import Participant, World

from ..client.people import ALICE, BOB, CAROL, DAVE

NAME = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, World, Participant]:
    """alice's store after bob, carol and dave have come, bob has renewed his keys, and carol has gone."""
    world = World()
    alice, bob, *_ = world.group(ALICE, BOB, CAROL, DAVE)
    world.now += 3 * 86_400
    bob.commit()
    world.settle()
    alice.commit(*alice.removing(CAROL))
    world.settle()
    file = tmp_path / "alice.db"
    store = SQLiteStore(file, ALICE)
    copy_all(alice.store, store)
    store.close()
    return file, world, alice


def run(*arguments: str, **options: Any) -> Any:
    return CliRunner().invoke(app, ["inspect", *arguments], **options)


def test_a_store_shows_who_sits_where_and_who_did_what(scene: tuple[Path, World, Participant], tmp_path: Path) -> None:
    file, world, alice = scene
    before = file.read_bytes()
    drawing = tmp_path / "room.svg"
    shown = run(str(file), "--svg", str(drawing))
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    assert f"{world.room.jid}: epoch {alice.group.mls.epoch}" in text
    for member in alice.group.members.all():
        assert f"{member.leaf_index} {member}" in text
    assert "2 blank" in text  # where carol was
    assert "this device" in text
    assert f"removed {CAROL}/" in text
    assert f"{BOB}/" in text
    assert "renewed keys" in text
    assert "may add people" in text  # the policy, decoded
    assert file.read_bytes() == before
    document = etree.fromstring(drawing.read_text())
    circles = document.findall(f"{NAME}circle")
    epochs = alice.group.members.epochs()
    assert len(circles) == 7 + len(epochs)  # 4 leaves, 3 nodes above
    assert any("2 blank" in (label.text or "") for label in document.iter(f"{NAME}text"))


def test_one_picture_is_of_one_room(scene: tuple[Path, World, Participant], tmp_path: Path) -> None:
    file, world, _ = scene
    assert isinstance(run(str(file), "--room", "heath@rooms.example").exception, UsageError)
    assert run(str(file), "--room", world.room.jid).exit_code == 0


def test_a_tree_in_clear_is_drawn(scene: tuple[Path, World, Participant], tmp_path: Path) -> None:
    _, _, alice = scene
    octets = alice.group.mls.tree.encode()
    drawing = tmp_path / "tree.svg"
    shown = run("--structure", "RatchetTreeExtension", "--svg", str(drawing), input=octets)
    assert shown.exit_code == 0, shown.output
    assert "ratchet tree" in shown.output
    assert f"0 {ALICE}" in " ".join(shown.output.split())
    assert drawing.read_text().startswith("<svg")
    (nodes,) = inspect.trees(RatchetTreeExtension.decode(octets))
    assert sum(node is not None for node in nodes[::2]) == 3


def test_a_policy_in_clear_is_decoded(scene: tuple[Path, World, Participant]) -> None:
    _, _, alice = scene
    shown = run("--structure", "GroupContext", input=alice.group.mls.context.encode().hex())
    assert shown.exit_code == 0, shown.output
    assert "may change this policy" in shown.output
    assert inspect.policies(alice.group.mls.context) == [alice.group.policy]


def test_the_log_of_epochs_is_bounded_and_ends_with_the_membership(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_log, "KEPT", 4)
    world = World()
    alice, bob = world.group(ALICE, BOB)
    for _ in range(6):
        bob.commit()
        world.settle()
    known = alice.group.members.epochs()
    assert [record.epoch for record in known] == list(range(alice.group.mls.epoch - 3, alice.group.mls.epoch + 1))
    assert all(record.by.decode().startswith(BOB) for record in known)
    alice.commit(*alice.removing(BOB))
    world.settle()
    assert alice.group.members.epochs()[-1].went_count == 1
    with bob.store.transaction() as transaction:
        assert not list(transaction.items(f"epochs/{world.room.jid}"))


def test_words() -> None:
    assert [age(seconds) for seconds in (5, 60, 7200, 86_400)] == ["less than a minute", "1 minute", "2 hours", "1 day"]
    record = EpochRecord(7, 0, b"a@b/c", (b"d@e/f",), 3, (b"g@h/\x1b",), 1, 0, 1)
    assert sentence(record) == "added d@e/f and 2 more; removed g@h/\ufffd; changed the rules"
    assert timeline([]).renderables
    assert tree(Picture([None], {}, 0), "empty").children


def test_a_large_tree_is_cut_and_blank_halves_are_one_line() -> None:
    picture = Picture([None] * 4095, {}, 0)
    drawn = tree(picture, "empty")
    assert len(drawn.children) == 2
    assert "only 512 leaves" in str(drawn.children[1].label)
    assert "leaves 0 to 511" in str(drawn.children[0].label)
    assert svg("empty", picture).count("<circle") == 1
