"""``slixmpp-mls rooms`` and the other commands that read a store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.backends.openssl.backend import backend
from typer.testing import CliRunner

from slixmpp_mls.cli import app
from slixmpp_mls.client import KeyPackageSettings, RoomGroup
from slixmpp_mls.client.storage.records import ROOMS
from slixmpp_mls.errors import MLSError
from slixmpp_mls.policy import RoomPolicy
from slixmpp_mls.store import SQLiteStore
from slixmpp_mls.testing import World

from ..client.people import ALICE, BOB


@pytest.mark.parametrize(
    ("suite", "words", "record"),
    [
        (1, "no", {"secrecy": False, "signatures": False}),
        (0xF001, "for secrecy only", {"secrecy": True, "signatures": False}),  # ML-KEM-768 with X25519, Ed25519
        (0xF009, "yes", {"secrecy": True, "signatures": True}),  # ML-KEM-768 with ML-DSA-44
    ],
)
def test_rooms_tell_whether_they_are_post_quantum(
    suite: int, words: str, record: dict[str, bool], tmp_path: Path
) -> None:
    world = World(settings=KeyPackageSettings((suite,), count=1))
    store = SQLiteStore(tmp_path / "alice.db", ALICE)
    alice = world.person(ALICE, store)
    alice.group.lifecycle.create(suite, world.open_policy(ALICE), world.now)
    store.close()
    arguments = ["rooms", str(tmp_path / "alice.db")]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    header, row = (line for line in shown.output.splitlines() if line.strip())
    assert header.split()[-1] == "post-quantum"
    assert row.split()[0] == world.room.jid
    assert row.partition(" 0 ")[2].strip() == words  # behind the epoch
    (one,) = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    assert (one["suite"], one["post_quantum"]) == (suite, record)


def test_a_room_of_a_suite_that_openssl_lacks_is_named_and_the_others_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(settings=KeyPackageSettings((0xF001, 1), count=1))
    store = SQLiteStore(tmp_path / "alice.db", ALICE)
    alice = world.person(ALICE, store)
    alice.group.lifecycle.create(0xF001, world.open_policy(ALICE), world.now)
    other = "blasted@heath.example"
    RoomGroup(alice.device, other).lifecycle.create(1, replace(world.open_policy(ALICE), room=other), world.now)
    store.close()
    monkeypatch.setattr(backend, "mlkem_supported", lambda: False)
    shown = CliRunner().invoke(app, ["rooms", str(tmp_path / "alice.db")])
    assert shown.exit_code == 0, shown.output
    assert other in shown.stdout
    assert world.room.jid not in shown.stdout
    assert world.room.jid in shown.stderr
    assert "ML-KEM" in shown.stderr


def say(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        assert isinstance(result.exception, MLSError), result.exception  # which main() prints
        assert code == 1
        return f"{result.output}{result.exception}"
    assert result.exit_code == code, result.output
    return result.output


def test_a_conversation_is_found_by_the_other_account(tmp_path: Path) -> None:
    """Nobody knows the random name of its room."""
    world = World()
    path = str(tmp_path / "alice.db")
    store = SQLiteStore(path, ALICE)
    alice = world.person(ALICE, store)
    alice.group.lifecycle.create(1, RoomPolicy.for_conversation(world.room.jid, ALICE, BOB), world.now)
    store.close()
    (one,) = json.loads(say("rooms", path, "--json"))
    assert (one["room"], one["conversation_with"]) == (world.room.jid, BOB)
    assert BOB in say("rooms", path)
    assert alice.device.identity.device in say("members", path, BOB)
    assert json.loads(say("policy", "show", path, BOB, "--json"))[0]["conversation"]
    assert world.room.jid in say("inspect", path, "--room", BOB)
    for command in (("members", path), ("policy", "show", path), ("inspect", path, "--room")):
        assert "slixmpp-mls rooms lists" in say(*command, "carol@c.example", code=1)


def test_a_room_whose_address_is_none_is_named_and_passed_over(tmp_path: Path) -> None:
    """Stores of older versions may have one; the other rooms go on."""
    world = World()
    path = str(tmp_path / "alice.db")
    store = SQLiteStore(path, ALICE)
    alice = world.person(ALICE, store)
    alice.group.lifecycle.create(1, world.open_policy(ALICE), world.now)
    with store.transaction() as transaction:
        record = transaction.get(ROOMS, world.room.jid.encode())
        assert record is not None
        for key in (b"", b"notajid", b"@", b"a@b/c", b"\xff@b"):
            transaction.put(ROOMS, key, record)
    assert RoomGroup.known(alice.device) == [world.room.jid]
    store.close()
    shown = say("store", "check", path, code=1)
    assert f"1 room\n  {world.room.jid}" in shown
    for named in ("b''", "b'notajid'"):
        assert named in shown
    for command in (("rooms",), ("policy", "show"), ("inspect",)):
        assert world.room.jid in say(*command, path)


def test_what_is_no_input_of_inspect_is_named(tmp_path: Path) -> None:
    (tmp_path / "bot.py").write_text("run(bot)")
    (tmp_path / "empty").write_text("\n")
    assert "there is no file" in say("inspect", str(tmp_path / "nothing"), code=1)
    assert "no input" in say("inspect", str(tmp_path / "empty"), code=1)
    assert "no store, and no MLSMessage as octets, hex, base64 or XML" in say(
        "inspect", str(tmp_path / "bot.py"), code=1
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("may_add=member", "nobody, administrators or members"),
        ("own_devices=yes", "true or false"),
        ("max_leaf_age=soon", "or of days as in 7d"),
        ("may_ad=members", "may_add"),
    ],
)
def test_a_wrong_setting_of_the_policy_is_told_what_is_possible(change: str, words: str) -> None:
    shown = say("policy", "set", "coven@rooms.example", change, code=2)
    assert words in " ".join(shown.replace("\u2502", " ").split())
