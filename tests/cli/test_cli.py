"""The command line, run as its users run it."""

from __future__ import annotations

import base64
import io
import json
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
import zxingcpp
from PIL import Image
from slixmpp import JID
from typer.testing import CliRunner

from slixmpp_mls.account.trust import trust_of
from slixmpp_mls.cli import app, main
from slixmpp_mls.cli.demo import story
from slixmpp_mls.cli.demo.federated_story import FederatedStory
from slixmpp_mls.cli.demo.story import Story
from slixmpp_mls.cli.terminal import clean
from slixmpp_mls.client import Device, RoomGroup
from slixmpp_mls.devserver import DevServer, Line
from slixmpp_mls.errors import UsageError
from slixmpp_mls.identity import ClientIdentity, fingerprint, key_identifier
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.registry import CipherSuiteId
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.policy import Right, RoomPolicy
from slixmpp_mls.rooms.encrypted_room import EncryptedRoom
from slixmpp_mls.rooms.epoch_code import EpochComparison
from slixmpp_mls.stanza.trust_message import KeyOwner
from slixmpp_mls.store import SQLiteStore
from tests.mls.group_helpers import bundle

from ..conftest import SERVERS, unavailable_means_skip, unique
from ..programs import COMMAND, login, running
from ..vectors import load

Account = Callable[[DevServer, str], Awaitable[JID]]
COMMANDS = ["version", "demo", "server", "chat", "send", "rooms", "members", "inspect"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: slixmpp-mls {command}" in result.output


@pytest.mark.parametrize("command", ["encrypt", "decrypt", "change-passphrase", "check"])
def test_help_of_store_has_an_example(command: str) -> None:
    result = CliRunner().invoke(app, ["store", command, "--help"])
    assert f"Example: slixmpp-mls store {command}" in result.output


def test_help_of_policy_has_an_example() -> None:
    for command in ([], ["show"]):
        assert "Example: slixmpp-mls policy show" in CliRunner().invoke(app, ["policy", *command, "--help"]).output


def test_policy_show_reads_a_store(tmp_path: Path) -> None:
    file, room = tmp_path / "alice.db", "coven@rooms.example"
    store = SQLiteStore(file, "alice@example")
    policy = RoomPolicy(room, ("alice@example", "hecate@example"), may_add=Right.MEMBERS, max_leaf_age=7 * 86_400)
    RoomGroup(Device(store), room).lifecycle.create(1, policy, 1_790_000_000)
    store.close()
    before = file.read_bytes()
    shown = CliRunner().invoke(app, ["policy", "show", str(file)])
    assert shown.exit_code == 0, shown.output
    for line in (room, "hecate@example (not in the group)", "all members", "7 days", "devices of members"):
        assert line in shown.output
    (record,) = json.loads(CliRunner().invoke(app, ["policy", "show", str(file), room, "--json"]).output)
    assert (record["may_add"], record["administrators_present"]) == ("members", ["alice@example"])
    assert CliRunner().invoke(app, ["policy", "show", str(file), "heath@rooms.example"]).exit_code == 1
    assert file.read_bytes() == before
    nothing = CliRunner().invoke(app, ["policy", "show", str(tmp_path / "none.db")])
    assert isinstance(nothing.exception, UsageError)
    assert not (tmp_path / "none.db").exists()


def test_help_of_trust_has_examples() -> None:
    for command in ("show", "list", "verify", "distrust"):
        output = CliRunner().invoke(app, ["trust", command, "--help"]).output
        assert f"Example: slixmpp-mls trust {command}" in output


def test_trust_in_a_store(tmp_path: Path) -> None:
    """A key is compared, refused, listed; all of it stays in the file."""
    file, bob = tmp_path / "alice.db", ClientIdentity("bob@example", "b1")

    def trust(*arguments: str, **options: Any) -> Any:
        return CliRunner().invoke(app, ["trust", arguments[0], str(file), *arguments[1:]], **options)

    assert isinstance(trust("list").exception, UsageError)  # there is no such file
    assert not file.exists()
    store = SQLiteStore(file, "alice@example")
    device = Device(store)
    with trust_of(device, time.time).table.open() as keys:
        keys.meet(bob, 0x0807, b"k" * 32)
    store.close()

    (seen,) = json.loads(trust("list", "bob@example", "--json").output)
    assert (seen["device"], seen["level"], seen["fingerprint"]) == ("b1", "undecided", fingerprint(b"k" * 32))
    assert "do not trust them" in str(trust("verify", "bob@example", "ab" * 32).exception)
    assert trust("verify", "bob@example", input="n\n").exit_code == 1
    assert json.loads(trust("list", "bob@example", "--json").output)[0]["level"] == "undecided"
    asked = trust("verify", "bob@example", input="y\n")
    assert asked.exit_code == 0, asked.output
    assert fingerprint(b"k" * 32) in " ".join(asked.output.split())
    listed = trust("list")
    assert "verified" in listed.output
    assert "decided here" in listed.output
    (refused,) = json.loads(trust("distrust", "bob@example", seen["fingerprint"], "--json").output)
    assert refused["level"] == "distrusted"
    uri = KeyOwner("bob@example", (key_identifier(b"k" * 32),)).to_uri()
    (again,) = json.loads(trust("verify", "bob@example", uri, "--json").output)
    assert again["level"] == "verified"
    assert trust("list", "carol@example").exit_code == 1


def test_trust_show_gives_a_code_to_scan(tmp_path: Path) -> None:
    file, picture = tmp_path / "alice.db", tmp_path / "me.png"
    store = SQLiteStore(file, "alice@example")
    device = Device(store)
    trust_of(device, time.time)
    store.close()
    shown = CliRunner().invoke(app, ["trust", "show", str(file), "--png", str(picture), "--json"])
    assert shown.exit_code == 0, shown.output
    said = json.loads(shown.output)
    key = device.signature_key(CipherSuite.get(1)).public
    assert [one["fingerprint"] for one in said["keys"]] == [fingerprint(key)]
    assert KeyOwner.from_uri(said["uri"]) == KeyOwner("alice@example", (key_identifier(key),))
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = CliRunner().invoke(app, ["trust", "show", str(file)]).output
    assert fingerprint(key) in text
    assert said["uri"] in text
    assert [code.text for code in zxingcpp.read_barcodes(Image.open(picture))] == [said["uri"]]


def test_every_command_is_in_the_list_above() -> None:
    assert {info.name or info.callback.__name__ for info in app.registered_commands if info.callback} == set(COMMANDS)


# --- demo ------------------------------------------------------------------------------------------


@pytest.mark.server
@pytest.mark.parametrize("kind", list(SERVERS))
async def test_demo(kind: str, tmp_path: Path) -> None:
    """It tells its story without a terminal, and has a picture of it."""
    with unavailable_means_skip():
        server = SERVERS[kind]()
        server._install()
        await server.close()
    picture = tmp_path / "demo.svg"
    command = [COMMAND, "demo", "--server", kind, "--svg", str(picture)]
    async with running(*command, folder=tmp_path, **_cache()) as demo:
        assert await demo.ends() == 0, demo.output
    assert "All of it checked" in demo.output
    assert "\x1b" not in demo.output
    assert picture.read_text().startswith("<svg")


@pytest.mark.server
@pytest.mark.parametrize("kind", list(SERVERS))
async def test_demo_with_two_servers(kind: str, prosody: DevServer, tmp_path: Path) -> None:
    del prosody  # there is one
    with unavailable_means_skip():
        server = SERVERS[kind]()
        server._install()
        await server.close()
    async with running(COMMAND, "demo", "--federated", "--server", kind, folder=tmp_path, **_cache()) as demo:
        assert await demo.ends() == 0, demo.output
    assert "All of it checked" in demo.output
    assert "the room is out of reach" in demo.output


@pytest.mark.server
@pytest.mark.parametrize("kind", list(SERVERS))
async def test_demo_of_a_room_that_moves_to_a_post_quantum_suite(kind: str, tmp_path: Path) -> None:
    with unavailable_means_skip():
        server = SERVERS[kind]()
        server._install()
        await server.close()
    async with running(COMMAND, "demo", "--post-quantum", "--server", kind, folder=tmp_path, **_cache()) as demo:
        assert await demo.ends() == 0, demo.output
    assert "for bob's sake" in demo.output
    assert "All of it checked" in demo.output


@pytest.mark.server
def test_the_demo_fails_where_a_room_does_not_move(prosody: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EncryptedRoom, "post_quantum", False)
    result = CliRunner().invoke(app, ["demo", "--post-quantum"])
    assert result.exit_code == 1
    assert "stays closed" in str(result.exception)


@pytest.mark.server
@pytest.mark.parametrize(
    ("owner", "method", "lie", "complaint"),
    [
        (FederatedStory, "_each_once", lambda story: False, "each once"),
        (DevServer, "log_text", lambda server: "<body>Killing swine.</body>", "not a word"),
        (Line, "cut", lambda line: None, "nothing happens any more"),
    ],
)
def test_the_demo_with_two_servers_fails_where_a_claim_does_not_hold(
    owner: type, method: str, lie: object, complaint: str, prosody: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, method, lie)
    if owner is Line:  # nobody waits for what cannot come; the other lies end a step that takes its time
        monkeypatch.setattr(story, "STEP_TIMEOUT", 3.0)
    result = CliRunner().invoke(app, ["demo", "--federated"])
    assert result.exit_code == 1
    assert complaint in str(result.exception)


@pytest.mark.server
async def test_demo_in_a_narrow_window_without_colours(prosody: DevServer, tmp_path: Path) -> None:
    del prosody  # there is one
    async with running(COMMAND, "demo", folder=tmp_path, **_cache(), COLUMNS="50", NO_COLOR="1") as demo:
        assert await demo.ends() == 0, demo.output
    assert max(map(len, demo.output.splitlines())) <= 50


@pytest.mark.server
async def test_demo_keeps_its_server(prosody: DevServer, tmp_path: Path) -> None:
    """Who plays on is alice, on her device and in her room."""
    del prosody  # there is one
    async with running(COMMAND, "demo", "--keep", folder=tmp_path, **_cache()) as demo:
        await demo.prints("Ctrl-C")
        found = re.search(r"^\. (.*/alice\.env)$", demo.output, re.MULTILINE)
        assert found is not None
        script = f". {found[1]}; {COMMAND} chat $XMPP_JID coven@rooms.prosody.example"
        async with running("/bin/sh", "-c", script, folder=tmp_path) as chat:
            await chat.prints("with alice@prosody.example, carol@prosody.example")
            assert await chat.ends() == 0, chat.output
        demo.process.send_signal(signal.SIGTERM)
        assert await demo.ends() == 0
    assert not Path(found[1]).parent.exists()


@pytest.mark.server
@pytest.mark.parametrize(
    ("owner", "method", "lie", "complaint"),
    [
        (Story, "_readable", lambda *_: 1, "reads 0 of 2"),
        (EncryptedRoom, "compare", lambda room, code: EpochComparison.SPLIT, "code"),
        (DevServer, "log_text", lambda server: "<body>Upon the heath.</body>", "not a word"),
        (DevServer, "disk_text", lambda server: "", "who met where"),
    ],
)
def test_the_demo_fails_where_a_claim_does_not_hold(
    owner: type, method: str, lie: object, complaint: str, prosody: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 0 means something."""
    monkeypatch.setattr(owner, method, lie)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert complaint in str(result.exception)


def _cache() -> dict[str, str]:
    """Where servers have been unpacked, for a program with another home."""
    from slixmpp_mls.devserver.packages import cache_folder

    return {"SLIXMPP_MLS_CACHE": str(cache_folder())}


# --- server ----------------------------------------------------------------------------------------


@pytest.mark.server
async def test_server(prosody: DevServer, tmp_path: Path) -> None:
    """Its files of variables let other commands log in; Ctrl-C is its orderly end."""
    async with running(COMMAND, "server", "--account", "hecate", folder=tmp_path, **_cache()) as server:
        await server.prints("Ctrl-C")
        found = re.search(r"^\. (.*/hecate\.env)$", server.output, re.MULTILINE)
        assert found is not None
        script = f". {found[1]}; {COMMAND} devices list $XMPP_JID"
        async with running("/bin/sh", "-c", script, folder=tmp_path) as devices:
            assert await devices.ends() == 1
        assert "hecate@prosody.example has published no devices" in devices.output
        server.process.send_signal(signal.SIGINT)
        assert await server.ends() == 0
    assert not Path(found[1]).exists()  # noqa: ASYNC240


# --- chat and devices ------------------------------------------------------------------------------


async def test_chat(server: DevServer, account: Account, tmp_path: Path) -> None:
    """Two terminals: made, added, said, answered, listed, renewed, removed."""
    alice, bob = str(await account(server, "alice")), str(await account(server, "bob"))
    room = f"{unique('coven')}@{server.rooms}"
    async with running(COMMAND, "chat", bob, room, folder=tmp_path, **login(server, bob)) as bobs:
        await bobs.prints("Waiting for somebody")
        async with running(COMMAND, "devices", "list", bob, folder=tmp_path, **login(server, alice)) as devices:
            assert await devices.ends() == 0, devices.output
        fingerprint = re.search(r"fingerprint: ([0-9a-f ]{71})", bobs.output)
        assert fingerprint is not None
        assert fingerprint[1] in devices.output
        assert "of last resort" in devices.output
        command = [COMMAND, "chat", alice, room, "--create", "--add", bob, "--add", f"nobody@{server.domain}"]
        async with running(*command, folder=tmp_path, **login(server, alice)) as alices:
            await alices.prints(f"nobody@{server.domain} could not be added")
            await alices.prints(f"{bob} came")
            await alices.prints("/help")
            await alices.type("\x1b[A\x1b[2JHover through\x1b[D the fog")  # arrows and other keys are no text
            await bobs.prints("Hover through the fog")
            await alices.type("x" * 5000)  # longer than a terminal's line, and whole
            await bobs.prints("x" * 5000)
            await alices.type("Fair is \x9b2J\u202efoul")
            await bobs.prints("Fair is \ufffd2J\ufffdfoul")
            await bobs.type("and foul is fair")
            await alices.prints("and foul is fair")
            await alices.type("/members")
            await alices.prints(f"trusted\n  {fingerprint[1]}")
            await alices.type(f"/verify {bob} {'ab' * 32}")
            await alices.prints("do not trust them")
            await alices.type(f"/verify {bob} {fingerprint[1]}")
            await alices.prints(f"is verified: {fingerprint[1]}")
            await alices.type("/update")
            await bobs.prints("new keys")
            await alices.type("/nonsense")
            await alices.prints("no such command")
            await alices.type(f"/remove {bob}")
            await bobs.prints("You were removed")
            assert await bobs.ends() == 0, bobs.output
            await alices.type("/quit")
            assert await alices.ends() == 0, alices.output
    stored = "".join(server.archive(room)) + server.log_text()
    for said in ("Fair is foul", "foul is fair"):  # one word alone may be there in Base64
        assert said not in stored


async def test_a_wrong_password_is_one_line(prosody: DevServer, account: Account, tmp_path: Path) -> None:
    jid = str(await account(prosody, "alice"))
    environment = login(prosody, jid) | {"XMPP_PASSWORD": "wrong"}
    async with running(COMMAND, "devices", "list", jid, folder=tmp_path, **environment) as devices:
        assert await devices.ends() == 1
    assert devices.output.splitlines() == [
        f"slixmpp-mls: {jid} cannot log in at 127.0.0.1:{prosody.port}: it refuses the password"
    ]


async def test_a_certificate_of_nobody_is_one_line(prosody: DevServer, account: Account, tmp_path: Path) -> None:
    jid = str(await account(prosody, "alice"))
    environment = login(prosody, jid)
    del environment["SSL_CERT_FILE"]
    async with running(COMMAND, "devices", "list", jid, folder=tmp_path, **environment) as devices:
        assert await devices.ends() == 1
    assert "certificate does not verify" in devices.output
    assert "Traceback" not in devices.output


def test_peers_cannot_draw_on_the_screen() -> None:
    assert clean("a\x1b[31m\x9b2J\r\u202eb\u2066\u2028c\td\n") == "a\ufffd[31m\ufffd2J\ufffd\ufffdb\ufffd\ufffdc\td\n"


# --- inspect ---------------------------------------------------------------------------------------


def inspect(data: bytes | str, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["inspect", *arguments], input=data)
    if result.exception is not None:
        raise result.exception
    assert result.exit_code == 0
    return result.stdout


def test_inspect_reads_octets_hex_base64_and_xml() -> None:
    octets = bytes.fromhex(load("welcome")[0]["key_package"])
    xml = inspect(octets)
    assert "<key_package>" in xml
    assert inspect(octets.hex()) == xml
    assert inspect(base64.encodebytes(octets)) == xml
    assert inspect(xml) == xml
    assert inspect(xml, "--to", "hex").strip() == octets.hex()
    assert base64.b64decode(inspect(xml, "--to", "base64")) == octets


def test_inspect_shows_what_a_stanza_holds() -> None:
    octets = bytes.fromhex(load("welcome")[0]["welcome"])
    data = base64.b64encode(octets).decode()
    element = f"<welcome xmlns='urn:xmpp:mls:0' group='AA==' epoch='1'>{data}</welcome>"
    stanza = f"<message xmlns='jabber:client'>{element}</message>"
    assert inspect(stanza) == inspect(octets)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (1, "post-quantum secrecy: no; post-quantum signatures: no"),
        (0xF001, "post-quantum secrecy: yes; post-quantum signatures: no"),
        (0xF00A, "post-quantum secrecy: yes; post-quantum signatures: yes"),
    ],
)
def test_inspect_says_what_resists_quantum_computers(number: int, said: str) -> None:
    octets = MLSMessage.wrap(bundle("alice", number).key_package)
    result = CliRunner().invoke(app, ["inspect"], input=octets)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [f"{CipherSuiteId(number).name} ({number:#06x}): {said}"]
    assert result.stdout == inspect(octets)


def test_inspect_says_that_a_suite_is_unknown() -> None:
    package = replace(bundle("alice").key_package, cipher_suite=0x0A0A)
    result = CliRunner().invoke(app, ["inspect"], input=MLSMessage.wrap(package))
    assert result.exit_code == 0
    assert "2570: cipher suite 0x0A0A is not supported" in result.stderr


@pytest.mark.parametrize("nonsense", ["", "zz zz", "AAEC", "<a/>", "<!DOCTYPE a><a/>", "0001"])
def test_inspect_refuses_nonsense_in_one_line(nonsense: str, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["slixmpp-mls", "inspect"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{nonsense}\n".encode())))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capfd.readouterr()
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("slixmpp-mls: ")
    assert said.out == ""


def test_every_command_and_group_of_commands_has_an_example() -> None:
    def commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
        if path:
            yield path, command.help or ""
        for name, below in getattr(command, "commands", {}).items():
            yield from commands(below, (*path, name))

    found = dict(commands(typer.main.get_command(app), ()))
    assert len(found) > 25
    for path, text in found.items():
        assert re.search(rf"Example: `[^`]*slixmpp-mls {path[0]}", text), path
