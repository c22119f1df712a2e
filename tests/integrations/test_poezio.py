"""A person in poezio, in a real terminal, and a bot on the other side."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from slixmpp import JID, ClientXMPP

from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import DeliveryError

from ..conftest import unique
from ..programs import Program, login, running
from ..terminal import SECONDS
from ..test_examples import Person
from ..test_readme import README, keys_of
from .poezio import first_command, poezio

Account = Callable[[DevServer, str], Awaitable[JID]]
Connect = Callable[..., Awaitable[ClientXMPP]]


@asynccontextmanager
async def readme_bot(server: DevServer, account: Account, folder: Path) -> AsyncIterator[tuple[str, Program]]:
    """The bot of the README, which also prints what it sees of files and reactions."""
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found is not None
    shown = (
        'bot.add_event_handler("mls_message", lambda one: print([each.name for each in one.files]))\n'
        'bot.add_event_handler("mls_reaction", lambda one: print(ascii(one.reactions), one.reacts_to.known))\n'
    )
    (folder / "bot.py").write_text(found[1].replace("run(bot)", f"{shown}run(bot)"))
    bot = str(await account(server, "echo"))
    async with running(sys.executable, "bot.py", folder=folder, **login(server, bot)) as program:
        yield bot, program


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.1)


async def has_keys(person: Person, account: str) -> None:
    """Wait until somebody can be added."""
    async with asyncio.timeout(SECONDS):
        while True:
            with contextlib.suppress(DeliveryError):  # Prosody's answer while there is no node
                if await person.mls.directory.items(account):
                    return
            await asyncio.sleep(0.1)


async def test_a_person_and_the_bot_of_the_readme_talk(
    server: DevServer, account: Account, connect: Connect, tmp_path: Path
) -> None:
    """A conversation of two: text, a picture, a reply and a reaction; the servers see none of it."""
    alice = str(await account(server, "alice"))
    picture = tmp_path / "cauldron.png"
    Image.new("RGB", (60, 40), "purple").save(picture)
    observer = await Person.connected(connect, server, tmp_path)
    async with readme_bot(server, account, tmp_path) as (bot, program), poezio(server, alice, tmp_path) as window:
        await keys_of(bot, observer, program)
        await window.shows("Authentication success")
        await first_command(window, f"message {bot}")
        await window.shows(re.escape(f"[{bot}]"))
        await window.type("/mls reply so be it")
        await window.shows("this tab is not encrypted: /mls encrypts it")
        await window.type("/mls")
        await window.shows("Encrypted from now on")
        await window.type("Fair is foul")
        await window.shows(r"said: Fair is\s+foul")
        await window.type(f'/mls file "{picture}" the cauldron')
        await program.prints("['cauldron.png']")
        await window.shows(r"said: the\s+cauldron")
        await window.type("/mls react \U0001f9d9")
        await program.prints("('\\U0001f9d9',) True")
        await window.type("/mls reply so be it")
        await window.shows(r"said: so be it")
    stored = server.log_text()
    assert "Fair is foul" not in stored


def on_the_wire(person: Person) -> list[str]:
    """What the server passes on to a person, from now on."""
    seen: list[str] = []

    def see(stanza: Any) -> Any:
        seen.append(str(stanza))
        return stanza

    person.client.add_filter("in", see)
    return seen


async def test_a_room_is_encrypted_from_its_tab(
    server: DevServer, account: Account, connect: Connect, tmp_path: Path
) -> None:
    """Made by /join, adopted by /mls; then what others say, correct, take back and think of it."""
    alice, room = str(await account(server, "alice")), f"{unique('coven')}@{server.rooms}"
    hecate = await Person.connected(connect, server, tmp_path)
    seen = on_the_wire(hecate)
    signs: asyncio.Queue[Any] = asyncio.Queue()
    hecate.client.add_event_handler("mls_typing", signs.put_nowait)
    async with poezio(server, alice, tmp_path) as window:
        await window.shows("Authentication success")
        await first_command(window, f"join {room}/alice")
        await window.shows("joined the room")
        await window.type("/mls")
        await window.shows("Encrypted from now on")
        await window.type(f"/mls add {hecate.jid}")
        await window.shows(f"{hecate.jid} came")
        await window.type("When shall we three meet again?")
        assert await hecate.hears(alice) == "When shall we three meet again?"
        async with asyncio.timeout(SECONDS):
            while signs.empty():  # one that is lost is lost
                for key in ("x", "BSpace"):
                    await window.press(key)
                    await asyncio.sleep(0.5)
        assert signs.get_nowait().sender.account == alice
        corrections: asyncio.Queue[Any] = asyncio.Queue()
        hecate.client.add_event_handler("mls_correction", corrections.put_nowait)
        await window.type("/correct When shall we three meet?")
        async with asyncio.timeout(SECONDS):
            assert (corrected := await corrections.get()).body == "When shall we three meet?"
        assert corrected.replaces.known
        coven = hecate.mls.room(room)
        sent = await coven.send("In thunder, lightnin")
        await window.shows("In thunder, lightnin")
        await coven.correct(sent, "In thunder, lightning, or in rain?")
        await window.shows("or in rain")
        await window.type(f"/mls verify {hecate.jid} {hecate.mls.fingerprint}")
        await window.shows("is verified")
        second = await coven.send("When the hurlyburly's done")
        await window.shows("\u2713> When the hurlyburly")
        await coven.retract(second)
        await window.shows("has taken this message back")
        await window.type("/mls members")
        await window.shows(re.escape(hecate.mls.fingerprint))
        await window.type("/mls nonsense")
        await window.shows("no such command")
        encrypted = list(seen)
        await window.type("/mls off")
        await window.shows("in clear from now on")
        await window.type("Graymalkin")
        await until(lambda: any("Graymalkin" in each for each in seen))
    for secret in ("three meet", "thunder", "hurlyburly", "composing"):
        assert not [each for each in encrypted if secret in each], secret


async def test_an_invited_person_reads_what_was_said_while_poezio_was_not_there(
    server: DevServer, account: Account, connect: Connect, tmp_path: Path
) -> None:
    """A tab opens by itself, encrypted; nothing is lost or shown twice over a restart."""
    alice = str(await account(server, "alice"))
    hecate = await Person.connected(connect, server, tmp_path)
    coven = await hecate.mls.create(f"{unique('heath')}@{server.rooms}")
    name = coven.jid.partition("@")[0]
    async with poezio(server, alice, tmp_path) as window:
        await window.shows("Authentication success")
        await has_keys(hecate, alice)
        assert not (await coven.add(alice)).failed
        await coven.send("All hail, Macbeth!")
        await window.shows(rf"1\.{name}")
        await first_command(window, "win 1")
        await window.shows("All hail, Macbeth!")
        await window.type("Stay, you imperfect speakers")
        assert await hecate.hears(alice) == "Stay, you imperfect speakers"
    await coven.send("that shalt be king hereafter")
    async with poezio(server, alice, tmp_path) as window:
        await window.shows(rf"1\.{name}")
        await first_command(window, "win 1")
        screen = await window.shows("that shalt be king hereafter")
        assert screen.count("that shalt be king") == 1
        assert "All hail" not in screen
        await window.type("tell me more")
        assert await hecate.hears(alice) == "tell me more"
    assert "tell me more" not in "".join(server.archive(coven.jid)) + server.log_text()


async def test_a_stranger_is_followed_only_when_the_person_wants_it(
    prosody: DevServer, account: Account, connect: Connect, tmp_path: Path
) -> None:
    """An invitation by nobody in the roster is shown; /join and /mls accept it.  Nothing private leaves in clear."""
    alice = str(await account(prosody, "alice"))
    hecate = await Person.connected(connect, prosody, tmp_path)
    seen = on_the_wire(hecate)
    coven = await hecate.mls.create(f"{unique('coven')}@{prosody.rooms}")
    async with poezio(prosody, alice, tmp_path, accept="contacts") as window:
        await window.shows("Authentication success")
        await has_keys(hecate, alice)
        assert not (await coven.add(alice)).failed
        await window.shows("then /mls accepts")
        await first_command(window, f"join {coven.jid}/alice")
        await window.shows("joined the room")
        await window.type("/mls")
        await window.shows("Encrypted from now on")
        await window.type("Show his eyes")
        assert await hecate.hears(alice) == "Show his eyes"
        nick = next(nick for nick, who in coven.muc.occupants.items() if str(who.jid) == hecate.jid)
        await window.type(f"/query {nick} grieve his heart")
        await window.shows("are not encrypted")
    assert not [each for each in seen if "grieve" in each]
