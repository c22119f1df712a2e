"""What operators do with servers over the years: a service is missing for a while, a backup is restored."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

import pytest

from slixmpp_mls import MLS, Login, connected
from slixmpp_mls.delivery import Stream
from slixmpp_mls.devserver import DevServer, Ejabberd, Prosody
from slixmpp_mls.errors import LoginFailed, MLSError
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


def with_removal(server: DevServer) -> None:
    """Have a server that does not run let accounts delete themselves (XEP-0077 3.2)."""
    if isinstance(server, Ejabberd):
        path, line, more = server.directory / "ejabberd.yml", '"mod_ping": {}', '"mod_ping": {}, "mod_register": {}'
    else:
        path, line, more = server.directory / "prosody.cfg.lua", '"time"\n', '"time", "user_account_management"\n'
    text = path.read_text()
    assert text.count(line) == 1
    path.write_text(text.replace(line, more))


async def test_an_account_that_is_deleted_while_its_bot_is_online(
    own_server: DevServer, cast: Cast, tmp_path: Path
) -> None:
    """The bot ends with an error that says so, after a few attempts at most; the others go on without it."""
    await own_server.stop()
    with_removal(own_server)
    await own_server.start()
    cast.expected_errors.append("refuses the password")
    room, (alice,) = await cast.meet(own_server, "alice")
    jid = await own_server.register("bot", "secret")
    login = Login.load(
        str(jid), password="secret", host=own_server.host, port=own_server.port, ca=own_server.ca_file,
        store=tmp_path / "bot.db",
    )  # fmt: skip
    bot = login.bot(key_packages=2)
    attempts: list[object] = []
    failed: list[object] = []
    bot.add_event_handler("connected", attempts.append)
    bot.add_event_handler("mls_failed", failed.append)

    async def serve() -> None:
        async with connected(bot):
            assert (await alice.room().add(str(jid))).added
            await MLS.of(bot).join(room)
            query = Element("{jabber:iq:register}query")
            SubElement(query, "{jabber:iq:register}remove")
            with suppress(MLSError):  # the server may end the stream instead of an answer
                await Stream.of(bot).ask("set", own_server.domain, query)
            await asyncio.Event().wait()

    with pytest.raises(LoginFailed) as caught:
        async with asyncio.timeout(180):
            await serve()
    assert (caught.value.reason, caught.value.temporary) == ("password", False)
    assert ("Account deleted" if isinstance(own_server, Prosody) else "User removed") in str(caught.value)
    assert [str(error) for error in failed] == [str(caught.value)]
    assert len(attempts) <= 5  # the first one, the one that is refused, and those of a busy machine
    await (await alice.say("one less")).confirmed
