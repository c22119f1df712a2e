"""A person in poezio, in a real terminal, and a bot on the other side."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from PIL import Image
from slixmpp import JID, ClientXMPP

from slixmpp_mls.devserver import DevServer

from ..conftest import unique
from ..programs import ROOT, Program, login, running
from ..test_examples import Person
from ..test_readme import README, keys_of
from .poezio import poezio

Account = Callable[[DevServer, str], Awaitable[JID]]
Connect = Callable[..., Awaitable[ClientXMPP]]


@asynccontextmanager
async def readme_bot(server: DevServer, account: Account, folder: Path) -> AsyncIterator[tuple[str, Program]]:
    """The bot of the README, which also prints what it sees of files and reactions."""
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found is not None
    shown = (
        'bot.add_event_handler("mls_message", lambda one: print([each.name for each in one.files], one.sender.account))\n'
        'bot.add_event_handler("mls_reaction", lambda one: print(ascii(one.reactions), one.reacts_to.known))\n'
    )
    (folder / "bot.py").write_text(found[1].replace("run(bot)", f"{shown}run(bot)"))
    bot = str(await account(server, "echo"))
    async with running(sys.executable, "bot.py", folder=folder, **login(server, bot)) as program:
        yield bot, program


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
        await window.press("/")
        await window.shows(r"(?m)^ +\u2502/ *$")
        await window.type(f"message {bot}")
        await window.shows(re.escape(f"[{bot}]"))
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
