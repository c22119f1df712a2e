"""``slixmpp-mls rooms``: what it says of each room's cipher suite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from slixmpp_mls.cli import app
from slixmpp_mls.client import KeyPackageSettings
from slixmpp_mls.store import SQLiteStore
from slixmpp_mls.testing import World

from ..client.people import ALICE


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
