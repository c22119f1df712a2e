"""The pages of the site: their programs run, their fragments run in a room, and their tables are complete."""

from __future__ import annotations

import ast
import asyncio
import importlib
import re
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from slixmpp import JID, ClientXMPP
from typer.testing import CliRunner

import slixmpp_mls
from slixmpp_mls import MLS, Login, errors
from slixmpp_mls.cli import app
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.runtime import connection, events, settings

from ..conftest import unique
from ..programs import COMMAND, ROOT, login, running
from ..test_examples import SECONDS, Person

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts and "generated" not in path.parts)
Account = Callable[[DevServer, str], Awaitable[JID]]
Connect = Callable[..., Awaitable[ClientXMPP]]


def program(page: str, name: str) -> str:
    """A complete program in a page, by its caption."""
    text = (DOCS / page).read_text()
    found = re.search(rf"```{{code-block}} python\n:caption: {re.escape(name)}\n\n(.*?)```", text, re.DOTALL)
    assert found is not None, (page, name)
    return found[1]


def fragments(page: str) -> list[str]:
    """The pieces of Python in a page."""
    return re.findall(r"^```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


def error_classes(cls: type[errors.MLSError] = errors.MLSError) -> list[type[errors.MLSError]]:
    below = [child for child in cls.__subclasses__() if child.__module__ == errors.__name__]
    return [cls, *(found for child in below for found in error_classes(child))]


# --- tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", error_classes(), ids=lambda cls: cls.__name__)
def test_each_error_has_its_row(cls: type[errors.MLSError]) -> None:
    """Troubleshooting names each class in the first column of a table, with a meaning and something to do."""
    page = (DOCS / "troubleshooting.md").read_text()
    rows = re.findall(rf"^\|.*`{cls.__name__}`.*?\|(.*?)\|(.*?)\|$", page, re.MULTILINE)
    assert rows
    for meaning, remedy in rows:
        assert meaning.strip()
        assert remedy.strip()


def test_each_event_is_in_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference is made from the table in the code; each row of that table is found, with its class."""
    monkeypatch.syspath_prepend(str(DOCS))
    generate = importlib.import_module("generate")
    rows = generate.event_table()
    assert {name for name, _, _ in rows} == set(re.findall(r"^``(mls_\w+)``", events.__doc__ or "", re.MULTILINE))
    known = generate._classes()
    without = {name for name, _, data in rows if data not in known}
    assert without <= {"mls_ready", "mls_failed", "mls_room_lost", "mls_room_event"}, without
    assert {data for _, _, data in rows if data in known} <= set(slixmpp_mls.__all__)
    documented = {name for name, _ in generate.settings_table()}
    assert {name for name in settings.DEFAULTS} - documented == set()


def test_pages_name_events_and_not_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program registers a handler by the event's name; the reference has the classes."""
    monkeypatch.syspath_prepend(str(DOCS))
    generate = importlib.import_module("generate")
    of_use = {"EncryptedMessage", "RetiredDevice"} | {cls.__name__ for cls in error_classes()}  # to be named as such
    classes = {data for _, _, data in generate.event_table()} - of_use
    named = []
    for page in [ROOT / "README.md", *DOCS.glob("*.md"), *DOCS.glob("howto/*.md"), *DOCS.glob("concepts/*.md")]:
        if page.name != "requirements.md":  # which says where in the code a thing is
            found = set(re.findall(r"`(\w+)`", page.read_text(encoding="utf-8"))) & classes
            named += [(page.name, name) for name in sorted(found)]
    assert not named


def test_the_pictures_are_those_of_their_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """``python docs/pictures.py`` would change nothing."""
    monkeypatch.syspath_prepend(str(DOCS))
    pictures = importlib.import_module("pictures")
    for name, picture in pictures.PICTURES.items():
        assert (DOCS / "concepts" / "pictures" / f"{name}.svg").read_text(encoding="utf-8") == picture(), name


def test_pages_name_commands_that_exist() -> None:
    """Each command in a page exists, with the options that the page gives it."""
    seen = set()
    for page in PAGES:
        for command, arguments in re.findall(r"^slixmpp-mls ([a-z]\w*)(.*?)(?:#.*)?$", page.read_text(), re.MULTILINE):
            words = [word for word in arguments.split() if word.isalpha()]
            help_text = CliRunner().invoke(app, [command, *words[:1], "--help"]).output
            if "Usage" not in help_text or "No such command" in help_text:
                help_text = CliRunner().invoke(app, [command, "--help"]).output
            assert "Usage" in help_text, (page.name, command)
            for option in re.findall(r"--[a-z-]+", arguments):
                assert option in help_text, (page.name, command, option)
            seen.add(command)
    assert {"server", "chat", "trust", "devices", "store", "ca"} <= seen


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_code_in_a_page_is_python(page: Path) -> None:
    """Each piece of code compiles (``await`` outside of a function is what a fragment may have)."""
    for number, code in enumerate(
        re.findall(r"^```(?:\{code-block\} )?python\n(.*?)```", page.read_text(), re.S | re.M)
    ):
        source = re.sub(r"\A:caption: .*\n\n", "", code)
        compile(source, f"{page.name}, piece {number + 1}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


# --- programs --------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_tutorial(prosody: DevServer, account: Account, tmp_path: Path) -> None:
    """Bob's bot and Alice's chat, as the tutorial has them, with a restart of the bot in the middle."""
    bob, alice = str(await account(prosody, "bob")), str(await account(prosody, "alice"))
    room = f"{unique('coven')}@{prosody.rooms}"
    (tmp_path / "bot.py").write_text(program("tutorial.md", "bot.py"))
    bot = (sys.executable, "bot.py")
    chat = (COMMAND, "chat", alice, room, "--create", "--add", bob)
    async with running(*bot, folder=tmp_path, **login(prosody, bob)) as first:
        await first.prints("ready, fingerprint")
        await first.prints("\n")
        said = re.search(r"ready, fingerprint ([0-9a-f ]+)\n", first.output)
        assert said is not None, first.output
        fingerprint = said[1]
        async with running(*chat, folder=tmp_path, **login(prosody, alice)) as talk:
            await talk.prints("/help")
            await talk.type("Fair is foul")
            await talk.prints(f"{alice} said: Fair is foul")
            await talk.type("!who")
            await talk.prints(f"{bob}: {fingerprint}")
            await talk.type(f"/verify {bob} {fingerprint}")
            await talk.prints("is verified")
            await talk.type("/quit")
            assert await talk.ends() == 0, talk.output
    async with running(*chat, folder=tmp_path, **login(prosody, alice)) as talk:
        await talk.prints("/help")
        await talk.type("and foul is fair")
        async with running(*bot, folder=tmp_path, **login(prosody, bob)):
            await talk.prints(f"{alice} said: and foul is fair")
        await talk.type("/quit")
        assert await talk.ends() == 0, talk.output


async def test_the_bot_in_production(prosody: DevServer, account: Account, connect: Connect, tmp_path: Path) -> None:
    """The program of that page prints who says what; SIGTERM ends it with code 0, a wrong password with 77."""
    bob = str(await account(prosody, "bob"))
    alice = await Person.connected(connect, prosody, tmp_path)
    (tmp_path / "bot.py").write_text(program("howto/production.md", "bot.py"))
    environment = login(prosody, bob) | {
        "MLS_STORE": str(tmp_path / "bot.db"),
        "MLS_CONFIG": str(tmp_path / "none.toml"),
    }
    async with running(sys.executable, "bot.py", folder=tmp_path, **environment) as bot:
        async with asyncio.timeout(SECONDS):
            while not (tmp_path / "bot.db").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            room = await alice.mls.create(f"{unique('coven')}@{prosody.rooms}")
            while (await room.add(bob)).failed:  # noqa: ASYNC110 (it has not published its keys yet)
                await asyncio.sleep(0.2)
        await room.send("Fair is foul")
        await bot.prints(f"{alice.jid} Fair is foul")
        bot.process.terminate()
        assert await bot.ends() == 0, bot.output
    async with running(sys.executable, "bot.py", folder=tmp_path, **environment | {"XMPP_PASSWORD": "wrong"}) as bot:
        assert await bot.ends() == 77, bot.output


async def test_the_crontab_line(server: DevServer, account: Account, connect: Connect, tmp_path: Path) -> None:
    """The line of the page on scripts posts as cron runs it: by a shell with a home, a short path and nothing else."""
    page = (DOCS / "howto/scripts.md").read_text()
    ops, alice = str(await account(server, "ops")), await Person.connected(connect, server, tmp_path)
    room = f"{unique('ops')}@{server.rooms}"
    settings_file = tmp_path / ".config" / "slixmpp-mls" / "config.toml"
    settings_file.parent.mkdir(parents=True)
    (tmp_path / ".secrets").mkdir()
    (tmp_path / ".secrets" / "ops").write_text(server.accounts[ops])
    settings = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert settings is not None
    settings_file.write_text(
        settings[1].replace("ops@example.org", ops)
        + f'host = "{server.host}"\nport = {server.port}\nca = "{server.ca_file}"\n'
    )
    settings_file.chmod(0o600)

    async def cron(line: str) -> None:
        line = line.replace("/opt/mls/bin/slixmpp-mls", COMMAND).replace("ops@rooms.example.org", room)
        bare = ("/usr/bin/env", "-i", f"HOME={tmp_path}", "PATH=/usr/bin:/bin", "/bin/sh", "-c", line)
        async with running(*bare, folder=tmp_path) as program:
            assert await program.ends() == 0, program.output

    first = re.search(r"^slixmpp-mls (send .* --create --add .*)$", page, re.MULTILINE)
    daily = re.search(r"^0 7 \* \* \* (df -h .*)$", page, re.MULTILINE)
    assert first is not None
    assert daily is not None
    await cron(f"{COMMAND} {first[1].replace('alice@example.org', alice.jid)}")
    assert await alice.hears(ops) == "The watch begins"
    await cron(daily[1].replace("df -h", "echo 42% of the disk"))
    assert await alice.hears(ops) == "42% of the disk"


def test_the_exit_codes_of_scripts() -> None:
    """Those of the page are those of the command's help."""
    table = set(re.findall(r"^\| (\d+) \|", (DOCS / "howto/scripts.md").read_text(), re.MULTILINE))
    assert table == set(re.findall(r"\b(\d+): ", CliRunner().invoke(app, ["send", "--help"]).output))


async def test_both_encryptions_in_one_bot(
    prosody: DevServer, account: Account, connect: Connect, tmp_path: Path
) -> None:
    """The bot of the page on OMEMO answers in a room by MLS, with OMEMO loaded beside it."""
    bob = str(await account(prosody, "bob"))
    alice = await Person.connected(connect, prosody, tmp_path)
    (tmp_path / "both.py").write_text(program("howto/omemo.md", "both.py"))
    async with running(sys.executable, "both.py", folder=tmp_path, **login(prosody, bob)) as bot:
        await bot.prints("ready")
        room = await alice.room_with(prosody, bob)
        await room.send("Fair is foul")
        assert await alice.hears(bob) == "by MLS: Fair is foul"


# --- fragments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page", ["howto/messages.md", "howto/reconnecting.md", "howto/devices.md", "howto/verification.md",
             "howto/cipher-suites.md", "howto/production.md", "concepts/admission.md"],
)  # fmt: skip
async def test_fragments(page: str, prosody: DevServer, connect: Connect, tmp_path: Path) -> None:
    """The fragments of a page, from top to bottom, by somebody that is in a room with Bob."""
    people = []
    for name in ("alice", "bob"):
        (tmp_path / name).mkdir()
        people.append(await Person.connected(connect, prosody, tmp_path / name))
    alice, bob = people
    room = await alice.room_with(prosody, bob.jid)
    (tmp_path / "cauldron.png").write_bytes(b"\x89PNG fire burn")
    code = "\n".join(fragments(page)).replace("bob@example.org", bob.jid).replace("alice@example.org", alice.jid)
    code = code.replace('Path("cauldron.png")', f"Path({str(tmp_path / 'cauldron.png')!r})")
    assert code
    names: dict[str, Any] = {
        "asyncio": asyncio, "Path": Path, "MLS": MLS, "Login": Login,
        "bot": alice.client, "mls": alice.mls, "room": room, "bob": bob.mls,
    }  # fmt: skip
    exec(f"async def story():\n{textwrap.indent(code, '    ')}\n    return True", names)
    async with asyncio.timeout(3 * SECONDS):
        assert await names["story"]()


def test_the_table_of_exit_codes() -> None:
    """The codes in the page about production are those of the code."""
    table = set(re.findall(r"^\| (\d+) \|", (DOCS / "howto/production.md").read_text(), re.MULTILINE))
    promised = set(re.findall(r"\b(\d\d): ", connection.exit_code.__doc__ or ""))
    assert promised
    assert promised <= table
