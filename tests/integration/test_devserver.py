"""The throw-away servers do what the tests and the demo build on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from slixmpp import JID, ClientXMPP, Message
from slixmpp.stanza import StreamError
from slixmpp.xmlstream import ET

from slixmpp_mls.devserver import DevServer, DevServerError, Federation, Prosody
from slixmpp_mls.devserver import packages as debian

from ..conftest import SERVERS, unavailable_means_skip, unique

Connect = Callable[..., Awaitable[ClientXMPP]]
ROOM_PLUGINS = ("xep_0045", "xep_0313", "xep_0359", "xep_0199")


async def enter(client: ClientXMPP, room: JID, nick: str) -> asyncio.Queue[Message]:
    """Join, and return a queue of the groupchat messages with a body."""
    heard: asyncio.Queue[Message] = asyncio.Queue()
    client.add_event_handler("groupchat_message", heard.put_nowait)
    await client.plugin["xep_0045"].join_muc_wait(room, nick, maxstanzas=0, timeout=120)
    return heard


async def own_room(client: ClientXMPP, room: JID, nick: str, **fields: str) -> asyncio.Queue[Message]:
    """Join a new room and make it persistent."""
    heard = await enter(client, room, nick)
    form: Any = client.plugin["xep_0004"].stanza.Form()
    form["type"] = "submit"
    form.add_field("FORM_TYPE", "hidden", value="http://jabber.org/protocol/muc#roomconfig")
    for name, value in {"persistentroom": "1", **fields}.items():
        form.add_field(f"muc#roomconfig_{name}", value=value)
    await client.plugin["xep_0045"].set_room_config(room, form)
    return heard


async def next_body(heard: asyncio.Queue[Message]) -> str:
    return str((await asyncio.wait_for(heard.get(), 120))["body"])


def say(client: ClientXMPP, room: JID, text: str) -> None:
    client.send_message(room, text, mtype="groupchat")


async def read_archive(client: ClientXMPP, room: JID) -> list[str]:
    found = client.plugin["xep_0313"].iterate(jid=room, rsm={"max": 50})
    return [result["mam_result"]["forwarded"]["stanza"]["body"] async for result in found]


def group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def listening_addresses(pid: int) -> set[str]:
    """The local addresses of a process's listening TCP sockets, as Linux shows them."""
    folder = Path(f"/proc/{pid}")
    own = set()
    for entry in (folder / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in the meantime
            own.add(os.readlink(entry))
    rows = [row.split() for table in ("tcp", "tcp6") for row in (folder / "net" / table).read_text().splitlines()[1:]]
    listening = [row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own]
    return {socket.inet_ntoa(bytes.fromhex(address)[::-1]) if len(address) == 8 else address for address in listening}


async def gone(group: int) -> bool:
    """Whether a process group ends soon."""
    deadline = time.monotonic() + 120
    while group_is_alive(group):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


@pytest.fixture(params=list(SERVERS))
async def own_server(request: pytest.FixtureRequest) -> Any:
    """A server that the test may break."""
    server = SERVERS[request.param]()
    try:
        with unavailable_means_skip():
            await server.start()
        yield server
    finally:
        await server.close()


async def test_two_clients_talk_in_an_archived_room(server: DevServer, connect: Connect) -> None:
    alice = await connect(server, "alice", *ROOM_PLUGINS)
    bob = await connect(server, "bob", *ROOM_PLUGINS)
    room = JID(f"{unique('heath')}@{server.rooms}")
    heard_by_alice = await own_room(alice, room, "alice")
    heard_by_bob = await enter(bob, room, "bob")
    said = [f"{line} {uuid.uuid4()}" for line in ("When shall we three", "meet again")]
    say(alice, room, said[0])
    assert [await next_body(heard) for heard in (heard_by_alice, heard_by_bob)] == [said[0]] * 2
    say(bob, room, said[1])
    assert [await next_body(heard) for heard in (heard_by_alice, heard_by_bob)] == [said[1]] * 2

    assert await read_archive(bob, room) == said
    stored = [element for stanza in server.archive(room) for element in ET.fromstring(stanza).iter()]
    assert [element.text for element in stored if element.tag.rpartition("}")[2] == "body"] == said
    # What the demo looks for in vain when a room is encrypted is found when it is not.
    assert all(line in server.disk_text() for line in said)
    assert said[0] not in server.log_text()


async def test_the_connection_is_encrypted_and_the_certificate_verified(
    server: DevServer, account: Callable[..., Awaitable[JID]], connect: Connect, tmp_path: Path
) -> None:
    client = await connect(server, "alice")
    assert client.transport is not None
    assert client.transport.get_extra_info("cipher") is not None
    assert client.transport.get_extra_info("peercert")["subjectAltName"]

    wary = server.client(await account(server, "wary"))
    stranger = tmp_path / "stranger.crt"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    wary.ssl_context = ssl.create_default_context(cafile=str(stranger))
    with pytest.raises(DevServerError, match="does not verify"):
        await server.connect(wary)


async def test_a_wrong_password_is_named(server: DevServer, account: Callable[..., Awaitable[JID]]) -> None:
    client = server.client(await account(server, "alice"), "guessed")
    with pytest.raises(DevServerError, match="password"):
        await server.connect(client)


async def test_registering_again_sets_the_password(server: DevServer, connect: Connect) -> None:
    name = unique("alice")
    await server.register(name, "first")
    jid = await server.register(name, "second")
    await connect(server, jid)
    with pytest.raises(DevServerError, match="password"):
        await server.connect(server.client(jid, "first"))


async def test_it_offers_what_the_plugin_needs(server: DevServer, connect: Connect) -> None:
    client = await connect(server, "alice", "xep_0030", "xep_0198")
    disco = client.plugin["xep_0030"]

    async def features(jid: str) -> set[str]:
        return set((await disco.get_info(jid=JID(jid)))["disco_info"]["features"])

    own, rooms = await features(client.boundjid.bare), await features(server.rooms)
    share = await features(f"share.{server.domain}")
    assert {"urn:xmpp:mam:2", "http://jabber.org/protocol/pubsub#publish"} <= own
    assert "urn:xmpp:carbons:2" in await features(server.domain)
    assert "http://jabber.org/protocol/muc" in rooms
    assert "urn:xmpp:http:upload:0" in share
    assert "stream_management" in client.features or client.plugin["xep_0198"].enabled_out


async def test_a_file_goes_up_and_comes_down(server: DevServer, connect: Connect) -> None:
    client = await connect(server, "alice", "xep_0363")
    content = os.urandom(30_000)
    answer = await client.plugin["xep_0363"].request_slot(
        JID(f"share.{server.domain}"), "tree.bin", len(content), "application/octet-stream"
    )
    slot = answer["http_upload_slot"]
    headers = {header["name"]: header["value"] for header in slot["put"]["headers"]}
    headers["Content-Type"] = "application/octet-stream"
    assert slot["put"]["url"].startswith("https://")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=server.ssl_context())) as http:
        async with http.put(slot["put"]["url"], data=content, headers=headers) as response:
            assert response.status in (200, 201)
        async with http.get(slot["get"]["url"]) as response:
            assert await response.read() == content


async def test_a_stanza_over_the_limit_closes_the_stream(server: DevServer, connect: Connect) -> None:
    client = await connect(server, "alice")
    ended: asyncio.Queue[StreamError] = asyncio.Queue()
    client.add_event_handler("stream_error", ended.put_nowait)
    client.send_message(JID(client.boundjid.bare), "x" * 300_000)
    assert (await asyncio.wait_for(ended.get(), 120))["condition"] == "policy-violation"


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_it_forgets_nothing_over_a_restart(own_server: DevServer, connect: Connect, end: str) -> None:
    alice = await connect(own_server, "alice", *ROOM_PLUGINS)
    room = JID(f"heath@{own_server.rooms}")
    heard = await own_room(alice, room, "alice")
    say(alice, room, "Before")
    assert await next_body(heard) == "Before"
    group, address = own_server.pid, (own_server.host, own_server.port)
    lost: asyncio.Queue[object] = asyncio.Queue()
    alice.add_event_handler("disconnected", lost.put_nowait)

    await getattr(own_server, end)()
    assert not own_server.running
    assert await gone(group)
    await asyncio.wait_for(lost.get(), 120)
    await own_server.start()
    assert (own_server.host, own_server.port) == address

    again = await connect(own_server, JID(alice.boundjid.bare), *ROOM_PLUGINS)
    heard = await enter(again, room, "alice")
    say(again, room, "After")
    assert await next_body(heard) == "After"
    assert await read_archive(again, room) == ["Before", "After"]


async def test_nobody_else_is_given_its_ports_while_it_is_down(own_server: DevServer) -> None:
    """Its clients, and the tests, would talk to another server."""
    await own_server.kill()
    for port in (own_server.port, own_server.http_port):
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((own_server.host, port))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(own_server.host, port)
    await own_server.start()


@pytest.mark.parametrize("kind", SERVERS.values(), ids=SERVERS.keys())
async def test_no_process_outlives_a_killed_owner(kind: type[DevServer]) -> None:
    program = (
        "import asyncio, os, sys\n"
        f"from {kind.__module__} import {kind.__name__} as Server\n"
        "async def main():\n"
        "    async with Server() as server:\n"
        "        print(server.pid, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    pipe = subprocess.PIPE
    # The owner cannot clean up behind itself.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = os.environ | {"TMPDIR": folder}
        owner = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=pipe, stderr=pipe, env=environment
        )
        assert owner.stdout is not None
        line = await owner.stdout.readline()
        with contextlib.suppress(ProcessLookupError):
            owner.kill()
        _, complaint = await owner.communicate()
        ended = not line or await gone(int(line))
    if not line:
        with unavailable_means_skip():
            raise DevServerError(complaint.decode())
    assert ended


async def test_several_run_at_once_and_listen_on_loopback_only(own_server: DevServer) -> None:
    async with type(own_server)() as other:
        assert (other.host, other.port) != (own_server.host, own_server.port)
        assert listening_addresses(other.pid) == {other.host}
        assert listening_addresses(own_server.pid) == {own_server.host}


FEDERATIONS = [("prosody", "prosody"), ("prosody", "ejabberd"), ("ejabberd", "prosody")]


@pytest.fixture(params=FEDERATIONS, ids=[" with ".join(pair) for pair in FEDERATIONS])
async def federated(request: pytest.FixtureRequest) -> AsyncIterator[tuple[DevServer, DevServer]]:
    """Two servers that can reach each other."""
    federation = Federation("alpha.example", "beta.example")
    async with contextlib.AsyncExitStack() as stack:
        with unavailable_means_skip():
            alpha, beta = [
                await stack.enter_async_context(SERVERS[kind](domain, federation=federation))
                for kind, domain in zip(request.param, federation.addresses, strict=True)
            ]
        yield alpha, beta


async def test_a_user_of_one_server_talks_in_a_room_of_another(
    federated: tuple[DevServer, DevServer], connect: Connect
) -> None:
    alpha, beta = federated
    alice = await connect(alpha, "alice", *ROOM_PLUGINS, "xep_0060")
    bob = await connect(beta, "bob", *ROOM_PLUGINS, "xep_0060")
    room = JID(f"heath@{alpha.rooms}")
    heard_by_alice = await own_room(alice, room, "alice", membersonly="1")
    await alice.plugin["xep_0045"].set_affiliation(room, "member", jid=JID(bob.boundjid.bare))
    heard_by_bob = await enter(bob, room, "bob")
    said = ["Fair is foul", "and foul is fair"]
    for speaker, text in zip((alice, bob), said, strict=True):
        say(speaker, room, text)
        assert [await next_body(heard) for heard in (heard_by_alice, heard_by_bob)] == [text] * 2

    assert await read_archive(bob, room) == said
    item = ET.fromstring("<toad xmlns='urn:example:cauldron'/>")
    open_to_all: Any = alice.plugin["xep_0004"].stanza.Form()
    open_to_all["type"] = "submit"
    open_to_all.add_field("FORM_TYPE", "hidden", value="http://jabber.org/protocol/pubsub#publish-options")
    open_to_all.add_field("pubsub#access_model", value="open")
    own = JID(alice.boundjid.bare)
    # slixmpp's PubSub plugin has no types.
    at_alice: Any = alice.plugin["xep_0060"]
    at_bob: Any = bob.plugin["xep_0060"]
    await at_alice.publish(own, "urn:example:cauldron", payload=item, options=open_to_all)
    read = await at_bob.get_items(own, "urn:example:cauldron")
    assert [item["payload"].tag for item in read["pubsub"]["items"]] == ["{urn:example:cauldron}toad"]

    for server in federated:
        assert listening_addresses(server.pid) == {server.host}


async def test_the_link_comes_back_when_a_peer_was_killed(
    federated: tuple[DevServer, DevServer], connect: Connect
) -> None:
    alpha, beta = federated
    alice = await connect(alpha, "alice")
    bob = await connect(beta, "bob")
    heard: asyncio.Queue[Message] = asyncio.Queue()
    bob.add_event_handler("message", heard.put_nowait)
    bare = JID(bob.boundjid.bare)
    alice.send_message(bare, "Before")
    assert await next_body(heard) == "Before"

    await beta.kill()
    alice.send_message(bare, "Into the void")
    await beta.start()
    bob = await connect(beta, bare)
    bob.add_event_handler("message", heard.put_nowait)
    async with asyncio.timeout(120):
        # A server that has just failed to reach its peer bounces messages for a moment.
        while heard.empty():
            alice.send_message(bare, "After")
            await asyncio.sleep(0.5)
    while (body := await next_body(heard)) != "After":
        assert body == "Into the void"  # which a server may have kept


def test_a_federation_has_no_place_for_strangers() -> None:
    with pytest.raises(DevServerError, match=r"gamma\.example"):
        Prosody("gamma.example", federation=Federation("alpha.example", "beta.example"))


@pytest.mark.server
@pytest.mark.parametrize("kind", list(SERVERS))
async def test_a_server_goes_on_in_its_directory(kind: str, tmp_path: Path) -> None:
    """The same accounts, authority, ports and archives; nobody else may read the passwords."""
    folder = tmp_path / "kept"
    with unavailable_means_skip():
        async with SERVERS[kind](directory=folder) as first:
            jid = await first.register("alice", "secret")
            room = JID(f"coven@{first.rooms}")
            client = first.client(jid)
            for plugin in ROOM_PLUGINS:
                client.register_plugin(plugin)
            await first.connect(client)
            heard = await own_room(client, room, "alice")
            say(client, room, "When shall we meet again?")
            assert await next_body(heard) == "When shall we meet again?"
            await client.disconnect()
            authority, ports = first.ca_file.read_bytes(), (first.port, first.http_port)
            certificate = (folder / "tls" / "server.pem").read_bytes()  # poezio remembers its key
    assert first.directory == folder
    assert (folder / "server.json").stat().st_mode & 0o077 == 0
    async with SERVERS[kind](directory=folder) as second:
        assert second.accounts == {str(jid): "secret"}
        assert (second.ca_file.read_bytes(), (second.port, second.http_port)) == (authority, ports)
        assert (folder / "tls" / "server.pem").read_bytes() == certificate
        client = second.client(jid)
        await second.connect(client)
        assert any("meet again" in stanza for stanza in second.archive(room))
        await client.disconnect()


async def test_a_directory_of_another_server_is_left_alone(tmp_path: Path) -> None:
    with unavailable_means_skip():
        async with Prosody(directory=tmp_path):
            pass
    with pytest.raises(DevServerError, match=r"prosody\.example.*choose another folder"):
        await Prosody("other.example", directory=tmp_path).start()
    (tmp_path / "server.json").write_text("{}")
    with pytest.raises(DevServerError, match="does not describe a server"):
        await Prosody(directory=tmp_path).start()


async def test_nothing_of_a_temporary_directory_is_left() -> None:
    with unavailable_means_skip():
        async with Prosody() as server:
            assert server.directory.exists()
    assert not server.directory.exists()


async def test_an_installed_prosody_is_preferred(
    prosody: Prosody, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Install one for this test: two programs that start with the name of their interpreter.
    for program in prosody._programs:
        source = await asyncio.to_thread(Path(program).read_text)
        installed = tmp_path / Path(program).name.removesuffix(".lua")
        body = source.partition("\n")[2] if source.startswith("#!") else source
        installed.write_text(f"#!{prosody._lua[-1]}\n{body}")
        installed.chmod(0o755)
    for variable, value in prosody._paths.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    async with Prosody() as server:
        assert server._command()[1] == str(tmp_path / "prosody")
        await server.connect(server.client(await server.register("alice", "secret")))


async def test_a_server_that_does_not_start_shows_its_log() -> None:
    server = Prosody(extra_config="this is no Lua")
    with pytest.raises(DevServerError) as raised:
        async with server:
            pass
    with unavailable_means_skip():
        if "no Prosody" in str(raised.value):
            raise raised.value
    assert "while starting" in str(raised.value)
    assert "prosody.cfg.lua" in str(raised.value)
    assert not server.directory.exists()


def test_where_there_is_no_debian_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("slixmpp_mls.devserver.base.ADMIN_FOLDERS", (str(tmp_path),))
    with pytest.raises(DevServerError, match=r"(?s)none is installed.*apt-get.*Install Prosody 0\.12"):
        asyncio.run(Prosody().start())


def test_a_package_that_does_not_exist_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with unavailable_means_skip():
        if not Path("/var/lib/dpkg/status").exists():
            raise DevServerError("this is no Debian")
    monkeypatch.setenv("SLIXMPP_MLS_CACHE", str(tmp_path))
    monkeypatch.setattr(debian._Apt, "_apt", _refuse_update(debian._Apt._apt))
    recipe = debian.Recipe("macbeth", ("no-such-package-as-this",), re.compile("no-such"))
    with pytest.raises(DevServerError, match=r"no Debian packages of macbeth"):
        debian.unpack(recipe)
    # Nothing half made stays behind to be taken for whole.
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def _refuse_update(real: Callable[..., str]) -> Callable[..., str]:
    """Stand in for a machine without network, which also spares the package servers."""

    def apt(self: Any, *arguments: str, **options: Any) -> str:
        if arguments[0] == "update":
            raise DevServerError("Temporary failure resolving")
        return real(self, *arguments, **options)

    return apt
