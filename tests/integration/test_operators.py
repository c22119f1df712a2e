"""What operators do with servers over the years: a service is missing for a while, a backup is restored."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest

from slixmpp_mls.devserver import DevServer, Ejabberd, Prosody
from slixmpp_mls.rooms import lost_rooms

from .people import Cast, Person, all_agree

pytestmark = pytest.mark.server


def without_rooms(server: DevServer) -> tuple[Path, str]:
    """A server's configuration, and its text without the service for rooms."""
    if isinstance(server, Ejabberd):
        path = server.directory / "ejabberd.yml"
        lines = path.read_text().splitlines()
        (number,) = (number for number, line in enumerate(lines) if line.startswith("modules: "))
        modules = json.loads(lines[number].removeprefix("modules: "))
        del modules["mod_muc"]
        lines[number] = f"modules: {json.dumps(modules)}"
        return path, "\n".join(lines) + "\n"
    path = server.directory / "prosody.cfg.lua"
    text, found = re.subn(r'Component "rooms[^\n]*\n[^\n]*\n', "", path.read_text(), count=1)
    assert found == 1
    return path, text


def entries(person: Person, room: str) -> int:
    """How often somebody has tried to enter a room."""
    return len(person.stanzas_sent(f"<presence[^>]* to=.{room}/"))


async def test_a_service_for_rooms_that_is_missing_for_a_while(
    own_server: DevServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in the configuration.  Prosody then says "not-allowed", as of a room that nobody may make."""
    monkeypatch.setattr(lost_rooms, "PAUSES", (0.0,))
    room, (alice, bob) = await cast.meet(own_server, "alice", "bob")
    for person in (alice, bob):
        person.stay_connected()
    path, text = without_rooms(own_server)
    right = path.read_text()
    await own_server.stop()
    path.write_text(text)
    tried = [entries(person, room) for person in (alice, bob)]
    await own_server.start()
    for person, before in zip((alice, bob), tried, strict=True):
        await person.until(partial(lambda person, before: entries(person, room) > before, person, before))
        if isinstance(own_server, Prosody):
            await person.next("mls_room_lost")
        assert not person.room(room).live
        assert (await person.next("mls_outage")).reason
        outage = person.room(room).outage
        assert outage is not None
        assert outage.next_try is not None
        assert outage.since <= outage.next_try
    await own_server.stop()
    path.write_text(right)
    await own_server.start()
    for person in (alice, bob):
        await person.joined(room)
        await person.until(lambda person=person: person.got("mls_outage")[-1].reason == "")  # type: ignore[misc]
        assert person.room(room).outage is None
    await alice.say("as if nothing had happened")
    await bob.hears("as if nothing had happened")
    await all_agree(alice, bob)


async def test_a_server_that_is_restored_from_a_backup(own_server: DevServer, cast: Cast, tmp_path: Path) -> None:
    """The archive lacks what all have read, and the account's nodes have what they have replaced: nobody forks."""
    room, (alice, bob) = await cast.meet(own_server, "alice", "bob")
    for person in (alice, bob):
        person.stay_connected()
    await own_server.stop()
    data = own_server.directory / "data"
    shutil.copytree(data, tmp_path / "backup")
    await own_server.start()
    await alice.joined(room)
    await bob.joined(room)
    await alice.room().update()
    await bob.room().update()
    await alice.say("said after the backup")
    await bob.hears("said after the backup")
    await all_agree(alice, bob)
    epoch = alice.room().epoch
    await own_server.stop()
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "backup", data)
    await own_server.start()
    for person in (alice, bob):
        told = await person.next("mls_unsure")
        assert "archive-gap" in told.reasons
    await alice.say("Is this the same heath?")
    await bob.hears("Is this the same heath?")
    await bob.say("It is another, and yet the same")
    await alice.hears("It is another, and yet the same")
    await all_agree(alice, bob)
    assert alice.room().epoch >= epoch
    assert not alice.room().unsure
    assert bob.bodies.count("said after the backup") == 1
    assert (await alice.room().update()).epoch > epoch
    await all_agree(alice, bob)
