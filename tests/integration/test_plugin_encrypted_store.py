"""A bot whose store has a passphrase, on a real server; and the commands that give it another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from slixmpp_mls.cli import app
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import WrongPassphrase

from .people import Cast, Person, all_agree


def on_disk(person: Person) -> bytes:
    return b"".join(file.read_bytes() for file in person.store.parent.glob(f"{person.store.name}*"))


def command(*words: str | Path, code: int = 0, **variables: str) -> str:
    result = CliRunner().invoke(app, ["store", *map(str, words)], env=variables, catch_exceptions=True)
    assert result.exit_code == code, result.output
    return str(result.exception) if code and not isinstance(result.exception, SystemExit) else result.output


async def test_a_bot_with_a_passphrase(prosody: DevServer, cast: Cast, tmp_path: Path) -> None:
    room, (alice,) = await cast.meet(prosody, "alice")
    bob = await cast.person(prosody, "bob", passphrase=lambda: "eye of newt")
    await alice.room().add(bob.account)
    await bob.joined(room)
    await bob.say("toe of frog")
    await alice.hears("toe of frog")
    said = [b"toe of frog", room.encode(), alice.account.encode(), bob.account.encode(), bob.mls.device_id.encode()]
    assert not [word for word in said if word in on_disk(bob)]
    assert room.encode() in on_disk(alice)
    bob.crash()
    assert not [word for word in said if word in on_disk(bob)]

    bob.config["passphrase"] = "toe of newt"
    cast.expected_errors.append("starting failed")
    with pytest.raises(WrongPassphrase):
        await bob.connect()
    assert isinstance(bob.got("mls_failed")[-1], WrongPassphrase)
    bob.crash()

    old: dict[str, Any] = {"MLS_STORE_PASSPHRASE": "eye of newt"}
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    assert "does not open" in command("check", bob.store, code=1, MLS_STORE_PASSPHRASE="toe of newt")
    assert json.loads(command("check", bob.store, "--json", **old)) == {
        "account": bob.account, "encrypted": True, "rooms": [room], "damage": [],
    }  # fmt: skip
    command("change-passphrase", bob.store, "--new-key-file", key, **old)
    assert "does not open" in command("check", bob.store, code=1, **old)
    command("decrypt", bob.store, "--key-file", key)
    assert all(word in on_disk(bob) for word in said[1:])
    assert "not encrypted" in command("check", bob.store)
    command("encrypt", bob.store, **old)
    assert "already" in command("encrypt", bob.store, code=1, **old)
    assert "no passphrase" in command("check", bob.store, code=1)

    bob.config["passphrase"] = "eye of newt"
    await bob.connect()
    await bob.joined(room)
    await bob.say("wool of bat")
    await alice.hears("wool of bat")
    await all_agree(alice, bob)
