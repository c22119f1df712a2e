"""``slixmpp-mls devices``, run as its users run it, on real servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from slixmpp_mls.cli import app
from slixmpp_mls.devserver import DevServer

from ..programs import COMMAND, login, running
from .people import Cast, Person


@pytest.mark.parametrize("command", ["list", "rename", "retire", "admit"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: slixmpp-mls devices {command}" in CliRunner().invoke(app, ["devices", command, "--help"]).output


async def command(person: Person, *arguments: str, folder: Path, code: int = 0) -> str:
    """Run it with the person's account."""
    environment = login(person.server, str(person.jid))
    async with running(COMMAND, "devices", *arguments, folder=folder, **environment) as program:
        assert await program.ends() == code, program.output
        return program.output


async def listed(person: Person, folder: Path, *more: str) -> dict[str, Any]:
    output = await command(person, "list", person.account, "--json", *more, folder=folder)
    return {device["id"]: device for device in json.loads(output)}


@pytest.mark.timeout(900)  # a dozen programs, which start slowly beside other tests
async def test_a_device_is_listed_named_let_in_and_retired(prosody: DevServer, cast: Cast, tmp_path: Path) -> None:
    room, (phone, bob) = await cast.meet(prosody, "alice", "bob")
    laptop = await cast.person(prosody, phone.jid, label="Laptop", key_packages=5)
    name = laptop.mls.device_id
    await phone.next("mls_new_device")
    await phone.log_out()

    found = await listed(phone, tmp_path, "--store", str(phone.store))
    assert len(found) == 2
    assert (found[name]["label"], found[name]["rooms"], found[name]["retired"]) == ("Laptop", [], None)
    assert found[name]["fingerprints"] == [laptop.mls.fingerprint]
    assert (found[name]["key_packages"], found[name]["last_resort"]) == ({"1": 5}, 1)
    assert found[name]["last_seen"] is not None
    (own,) = found.keys() - {name}
    assert found[own]["rooms"] == [room]

    await command(phone, "rename", phone.account, name, "Kitchen", folder=tmp_path)
    assert (await listed(phone, tmp_path))[name]["label"] == "Kitchen"
    assert "Kitchen" in await command(phone, "list", phone.account, folder=tmp_path)

    output = await command(phone, "admit", phone.account, name, "--store", str(phone.store), folder=tmp_path)
    assert f"{room}: done" in output
    await laptop.joined(room)
    await laptop.say("I am in")
    await bob.hears("I am in")
    assert (await listed(phone, tmp_path, "--store", str(phone.store)))[name]["rooms"] == [room]

    output = await command(phone, "retire", phone.account, name, "--store", str(phone.store), "--json", folder=tmp_path)
    assert json.loads(output) == {"device": name, "retired": True, "done": [room], "waiting": {}}
    await laptop.next("mls_retired")
    await bob.until(lambda: name not in {member.device for member in bob.room().members})
    after = (await listed(phone, tmp_path))[name]
    assert after["retired"] is not None
    assert (after["listed"], after["key_packages"], after["fingerprints"]) == (False, {}, [])


async def test_without_a_store_the_other_devices_do_the_rest(prosody: DevServer, cast: Cast, tmp_path: Path) -> None:
    room, (phone, bob) = await cast.meet(prosody, "alice", "bob")
    laptop = await cast.person(prosody, phone.jid, key_packages=5)
    name = laptop.mls.device_id
    await phone.next("mls_new_device")
    await phone.mls.devices.admit(name)
    await laptop.joined(room)
    output = await command(phone, "retire", phone.account, name, folder=tmp_path)
    assert "as soon as they are online" in output
    await laptop.next("mls_retired")
    await bob.until(lambda: name not in {member.device for member in bob.room().members})


async def test_mistakes_are_one_line(prosody: DevServer, cast: Cast, tmp_path: Path) -> None:
    phone = await cast.person(prosody, "alice")
    for arguments in (
        ("rename", phone.account, "nobody", "x"),
        ("rename", phone.account, phone.mls.device_id, "x" * 65),
        ("retire", phone.account, "nobody"),
        ("admit", phone.account, "nobody", "--store", str(tmp_path / "none.db")),
    ):
        output = await command(phone, *arguments, folder=tmp_path, code=1)
        assert len(output.strip().splitlines()) == 1, output
        assert output.startswith("slixmpp-mls: ")
    assert set(await listed(phone, tmp_path)) == {phone.mls.device_id}
