"""What the README promises: its bot runs as it stands, its commands exist, its links lead somewhere."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from slixmpp import JID, ClientXMPP
from typer.testing import CliRunner

from slixmpp_mls.cli import app
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import DeliveryError

from .conftest import unique
from .programs import ROOT, Program, login, running
from .test_examples import SECONDS, Person

README = (ROOT / "README.md").read_text()
Account = Callable[[DevServer, str], Awaitable[JID]]
Connect = Callable[..., Awaitable[ClientXMPP]]


async def test_the_bot(server: DevServer, account: Account, connect: Connect, tmp_path: Path) -> None:
    """The first block of Python, in a new folder, with the variables that `slixmpp-mls server` prints."""
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found is not None
    (tmp_path / "bot.py").write_text(found[1])
    bot = str(await account(server, "echo"))
    alice = await Person.connected(connect, server, tmp_path)
    async with running(sys.executable, "bot.py", folder=tmp_path, **login(server, bot)) as program:
        await keys_of(bot, alice, program)
        group = await alice.room_with(server, bot)
        await group.send("Fair is foul")
        assert await alice.hears(bot) == f"{alice.jid} said: Fair is foul"


async def test_the_api_in_short(server: DevServer, connect: Connect, tmp_path: Path) -> None:
    """The second block of Python, line by line, with addresses that exist."""
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[1]
    people = []
    for name in ("alice", "bob"):
        (tmp_path / name).mkdir()
        people.append(await Person.connected(connect, server, tmp_path / name))
    alice, bob = people
    room = f"{unique('coven')}@{server.rooms}"
    code = code.replace("coven@rooms.example.org", room).replace("bob@example.org", bob.jid)
    before, removal = code.split("await room.remove", 1)
    # Who is removed loses the room with its archive, and bob may be slower than the next line.
    code = f"{before}await read()\nawait room.remove{removal}"
    heard: list[str] = []

    async def read() -> None:
        heard.append(await bob.hears(alice.jid))

    names: dict[str, Any] = {"read": read}
    exec(f"async def story(bot):\n{textwrap.indent(code, '    ')}    return result", names)
    async with asyncio.timeout(SECONDS):
        result = await names["story"](alice.client)
    assert [member.account for member in result.added] == [bob.jid]
    assert heard == ["Fair is foul"]
    assert not alice.mls.rooms


async def keys_of(bot: str, alice: Person, program: Program) -> None:
    """Wait until the bot has keys: it does not say so itself."""
    async with asyncio.timeout(SECONDS):
        while True:
            assert program.process.returncode is None, program.output
            with contextlib.suppress(DeliveryError):  # Prosody's answer while there is no node
                if await alice.mls.directory.items(bot):
                    return
            await asyncio.sleep(0.1)


def test_commands() -> None:
    """Each command line in it names a command that exists and options that it has."""
    lines = re.findall(r"^slixmpp-mls (\w+)(.*?)(?:#.*)?$", README, re.MULTILINE)
    assert len(lines) > 2
    for command, arguments in lines:
        help_text = CliRunner().invoke(app, [command, "--help"]).output
        for option in re.findall(r"--[a-z-]+", arguments):
            assert option in help_text, (command, option)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_links(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_first_screen() -> None:
    """What a bot author needs comes first: within 60 lines, the install command, the bot and how to try it."""
    first = README.splitlines()[:60]
    for needed in ("pip install", "slixmpp-mls demo", "run(bot)", "slixmpp-mls server"):
        assert any(needed in line for line in first), needed


CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_map_names_what_exists() -> None:
    """Each path in CONTRIBUTING is there, in the repository or in the package, and each package is in its table."""
    named = set(re.findall(r"`([\w./]+(?:/|\.(?:py|md|xml|xsd|toml)))`", CONTRIBUTING))
    assert len(named) > 50
    package = ROOT / "slixmpp_mls"
    assert {path for path in named if not ((ROOT / path).exists() or (package / path).exists())} == set()
    table = CONTRIBUTING.partition("| package | what it holds |")[2].partition("\n\n")[0]
    rows = set(re.findall(r"^\| `([\w./]+)`", table, re.MULTILINE))
    parts = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert rows == parts | {"rooms/engine/", "plugin.py", "errors.py"}


@pytest.mark.parametrize(
    "document", ["CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_links_of_documents(document: str) -> None:
    """Links to files lead somewhere, from where the document is."""
    source = ROOT / document
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", source.read_text()):
        if "reference/generated/" in target:
            continue  # `make docs` makes it, and checks the links of what it has made
        assert (source.parent / target).exists(), target
