"""Encrypted blobs over HTTP upload, on each server as it comes, and from web servers that misbehave."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from xml.etree.ElementTree import Element, SubElement

import pytest
from aiohttp import web
from slixmpp import ClientXMPP
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

from slixmpp_mls.delivery import Uploads, http, upload
from slixmpp_mls.delivery.networks import network_of
from slixmpp_mls.delivery.upload import _Service
from slixmpp_mls.devserver import DevServer, Ejabberd, Prosody
from slixmpp_mls.errors import (
    BlobTooLarge,
    Disconnected,
    MalformedError,
    MLSError,
    NotPermitted,
    NoUploadService,
    TransferFailed,
)
from slixmpp_mls.stanza.blob import MAX_TREE, BlobReference, Sealing

from ..conftest import unavailable_means_skip

Connect = Callable[..., Awaitable[ClientXMPP]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
NS = "urn:xmpp:http:upload:0"
QUICKLY = (0.01, 0.01)


@asynccontextmanager
async def web_server(server: DevServer, handler: Handler) -> AsyncIterator[str]:
    """A web server that our clients trust, at a loopback address; its URL."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server._authority.issue_cert("127.0.0.1").configure_cert(tls)
    runner = web.ServerRunner(web.Server(cast(Any, handler)))  # aiohttp: a request that no application has
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        assert site._server is not None
        yield f"https://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
    finally:
        await runner.cleanup()


def serving(octets: bytes, **options: Any) -> Handler:
    async def serve(request: web.Request) -> web.StreamResponse:
        return web.Response(body=octets, **options)

    return serve


async def failure(work: Awaitable[object], kind: type[MLSError]) -> Any:
    with pytest.raises(kind) as caught:
        async with asyncio.timeout(120):
            await work
    return caught.value


def on_disk(server: DevServer, octets: bytes) -> bool:
    """Whether these octets lie somewhere among the server's files."""
    for path in Path(server.directory, "data").rglob("*"):
        with suppress(FileNotFoundError):  # the server goes on meanwhile
            if path.is_file() and octets in path.read_bytes():
                return True
    return False


# --- on real servers -------------------------------------------------------------------------


async def test_put_by_one_and_got_by_another(server: DevServer, connect: Connect) -> None:
    alice, bob = await connect(server, "alice"), await connect(server, "bob")
    data = b"Double, double toil and trouble, unseen by any server" + os.urandom(300_000)
    uploads = Uploads(alice)
    reference = await uploads.put(data)
    assert await Uploads(bob).get(BlobReference.decode(reference.encode())) == data
    assert await uploads.get(reference) == data

    # A fresh key for each, and nothing but the encrypted octets on the server's disk.
    again = await uploads.put(data)
    assert {again.key, again.nonce, again.hash, again.url}.isdisjoint(
        {reference.key, reference.nonce, reference.hash, reference.url}
    )
    assert not on_disk(server, b"Double, double toil and trouble, unseen by any server")
    stored = [path.read_bytes() for path in server.directory.rglob("*") if path.is_file()]
    hashes = {sha256(octets).digest() for octets in stored if len(octets) == reference.size}
    assert {reference.hash, again.hash} <= hashes

    # Nothing secret in what may be logged.
    for text in (repr(reference), repr(Sealing(data, os.urandom))):
        assert reference.url not in text
        assert reference.key.hex() not in text
        assert "\\x" not in text


async def test_a_reference_that_does_not_fit_what_is_there(server: DevServer, connect: Connect) -> None:
    uploads = Uploads(await connect(server, "alice"))
    reference = await uploads.put(os.urandom(1000))
    other = await uploads.put(os.urandom(1000))
    for wrong in (
        replace(reference, hash=other.hash),
        replace(reference, url=other.url),
        replace(reference, size=reference.size + 1),
        replace(reference, size=reference.size - 1),
        replace(reference, size=0),
        replace(reference, key=other.key),
        replace(reference, nonce=other.nonce),
        replace(reference, size=MAX_TREE + 1),
    ):
        await failure(uploads.get(wrong), MalformedError)
    gone = await failure(uploads.get(replace(reference, url=reference.url.replace("/blob", "x/blob"))), TransferFailed)
    assert not gone.temporary
    assert len(await uploads.get(reference)) == 1000


async def test_more_than_the_service_takes(server: DevServer, connect: Connect) -> None:
    uploads = Uploads(await connect(server, "alice"))
    error = await failure(uploads.put(bytes(MAX_TREE)), BlobTooLarge)
    assert error.limit <= MAX_TREE
    assert error.size == MAX_TREE + 16
    assert str(error.limit) in str(error)


class WithoutUpload(Ejabberd):
    def _settings(self) -> dict[str, Any]:
        settings = super()._settings()
        del settings["modules"]["mod_http_upload"]
        for port in settings["listen"]:
            if "request_handlers" in port:
                port["request_handlers"].pop("/upload", None)
        return settings


@pytest.mark.parametrize("kind", ["prosody", "ejabberd"])
async def test_a_server_without_upload_or_with_a_low_limit(kind: str, account: Any) -> None:
    bare: DevServer
    if kind == "prosody":
        bare = Prosody(extra_config="disco_hidden = true; http_file_share_size_limit = 1000")
    else:
        bare = WithoutUpload()
    with unavailable_means_skip():
        await bare.start()
    try:
        client = bare.client(await account(bare, "alice"))
        await bare.connect(client)
        uploads = Uploads(client)
        await failure(uploads.put(b"x"), NoUploadService)
        if kind == "prosody":  # the service is there, only not announced
            uploads._service = await uploads._ask_service(f"share.{bare.domain}")
            assert (await failure(uploads.put(bytes(985)), BlobTooLarge)).limit == 1000
            assert await uploads.get(await uploads.put(bytes(984))) == bytes(984)
        client.abort()
        await client.wait_until("disconnected", 120)
        await failure(Uploads(client).put(b"x"), Disconnected)
    finally:
        await bare.close()


# --- web servers that misbehave --------------------------------------------------------------


async def test_a_web_server_that_gives_something_else(prosody: DevServer, connect: Connect) -> None:
    uploads = Uploads(await connect(prosody, "alice"))
    sealed = Sealing(os.urandom(100_000), os.urandom)
    octets = sealed.ciphertext
    flipped = octets[:500] + bytes([octets[500] ^ 1]) + octets[501:]
    for body in (octets[:-1], octets + b"x", flipped, b"", octets[::-1]):
        async with web_server(prosody, serving(body)) as url:
            await failure(uploads.get(sealed.at(url)), MalformedError)
    async with web_server(prosody, serving(octets, headers={"Content-Encoding": "gzip"})) as url:
        assert len(await uploads.get(sealed.at(url))) == 100_000  # no decompression: no zip bombs
    for status, temporary in ((404, False), (403, False), (410, False), (500, True), (503, True), (204, False)):
        async with web_server(prosody, serving(b"", status=status)) as url:
            assert (await failure(uploads.get(sealed.at(url)), TransferFailed)).temporary is temporary


async def test_no_more_is_read_than_the_reference_says(prosody: DevServer, connect: Connect) -> None:
    uploads = Uploads(await connect(prosody, "alice"))
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(2000):
            await response.write(bytes(100_000))
            sent += 100_000
        return response

    async with web_server(prosody, endless) as url:
        await failure(uploads.get(Sealing(bytes(1000), os.urandom).at(url)), MalformedError)
    assert sent < 20_000_000


async def test_a_connection_that_breaks_and_one_that_never_stands(prosody: DevServer, connect: Connect) -> None:
    uploads = Uploads(await connect(prosody, "alice"))
    sealed = Sealing(bytes(1000), os.urandom)

    async def breaking(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(sealed.ciphertext)
        await response.prepare(request)
        await response.write(sealed.ciphertext[:500])
        assert request.transport is not None
        request.transport.abort()
        return response

    async with web_server(prosody, breaking) as url:
        assert (await failure(uploads.get(sealed.at(url)), TransferFailed)).temporary
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{closed.getsockname()[1]}"
        assert (await failure(uploads.get(sealed.at(url)), TransferFailed)).temporary
    error = await failure(uploads.get(sealed.at("https://no-such-host.invalid/")), TransferFailed)
    assert error.temporary


async def test_redirects_are_not_followed(prosody: DevServer, connect: Connect) -> None:
    uploads = Uploads(await connect(prosody, "alice"))
    sealed = Sealing(bytes(1000), os.urandom)
    async with web_server(prosody, serving(sealed.ciphertext)) as there:
        assert await uploads.get(sealed.at(there)) == bytes(1000)
        for status in (301, 302, 303, 307, 308):
            async with web_server(prosody, serving(b"", status=status, headers={"Location": there})) as url:
                assert not (await failure(uploads.get(sealed.at(url)), TransferFailed)).temporary


async def test_a_certificate_of_somebody_else(prosody: DevServer, connect: Connect) -> None:
    uploads = Uploads(await connect(prosody, "alice"))
    sealed = Sealing(bytes(1000), os.urandom)
    async with web_server(prosody, serving(sealed.ciphertext)) as url:
        await failure(uploads.get(sealed.at(url.replace("127.0.0.1", "localhost"))), TransferFailed)
        async with web_server(Prosody(), serving(sealed.ciphertext)) as untrusted:
            await failure(uploads.get(sealed.at(untrusted)), TransferFailed)


# --- which addresses -------------------------------------------------------------------------


def test_kinds_of_addresses() -> None:
    for kind, addresses in {
        "public": ["9.9.9.9", "2620:fe::fe", "::ffff:9.9.9.9", "64:ff9b::909:909"],
        "loopback": ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"],
        "private": ["10.0.0.1", "172.16.0.1", "192.168.0.1", "fd00::1", "::ffff:10.0.0.1"],
        "other": ["169.254.169.254", "0.0.0.0", "::", "fe80::1%eth0", "224.0.0.1", "ff02::1", "255.255.255.255",
                  "100.64.0.1", "::ffff:169.254.169.254", "198.18.0.1", "192.0.0.1", "240.0.0.1",
                  # 6to4 and its relay, Teredo, NAT64 of what is not global, site-local, IPv4-compatible,
                  # IPv4-translated, local NAT64, ISATAP, documentation, discard-only, segment routing
                  "2002:a00:5::1", "2002:7f00:1::", "2002:909:909::1", "192.88.99.1", "2001:0:7f00:1::",
                  "64:ff9b::7f00:1", "64:ff9b::a00:5", "64:ff9b::a9fe:a9fe", "fec0::1", "::127.0.0.1", "::9.9.9.9",
                  "::ffff:0:127.0.0.1", "64:ff9b:1::a00:5", "2620:fe::5efe:10.0.0.5", "2620:fe::200:5efe:10.0.0.5",
                  "2001:db8::1", "3fff::1", "100::1", "5f00::1"],
    }.items():  # fmt: skip
        assert {address: network_of(address) for address in addresses} == dict.fromkeys(addresses, kind)


async def test_addresses_that_nothing_is_fetched_from(
    prosody: DevServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """We are at a server on loopback: loopback and the public internet are fetched from, nothing else."""
    uploads = Uploads(await connect(prosody, "alice"))
    sealed = Sealing(bytes(1000), os.urandom)
    for host in ("10.0.0.1", "192.168.1.1", "169.254.169.254", "[fd00::1]", "[::]", "0.0.0.0", "127.1", "2130706433",
                 "0x7f000001", "0x7f.1", "[::ffff:10.0.0.1]"):  # fmt: skip
        await failure(uploads.get(sealed.at(f"https://{host}/")), NotPermitted)

    async with web_server(prosody, serving(sealed.ciphertext)) as url:
        assert await uploads.get(sealed.at(url))
        monkeypatch.setattr(uploads, "_networks", lambda: frozenset({"public"}))  # as on a server in the internet
        await failure(uploads.get(sealed.at(url)), NotPermitted)
        # A name is judged by the address that it has.
        await failure(uploads.get(sealed.at(url.replace("127.0.0.1", "localhost"))), NotPermitted)


async def test_the_address_is_judged_when_the_socket_is_made(
    prosody: DevServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is public when it is asked for and private afterwards (DNS rebinding) is not connected to."""
    uploads = Uploads(await connect(prosody, "alice"))
    sealed = Sealing(bytes(1000), os.urandom)
    asked: list[str] = []

    async def serve(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(body=sealed.ciphertext)

    async with web_server(prosody, serve) as url:
        monkeypatch.setattr(uploads, "_networks", lambda: frozenset({"public"}))
        # Whatever was decided before, by host or by answer of the DNS, is deceived.
        monkeypatch.setattr(upload, "check_host", lambda url, networks: None)
        await failure(uploads.get(sealed.at(url)), NotPermitted)

        async def rebound(self: object, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
            return [
                {"hostname": host, "host": address, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
                for address in ("127.0.0.1", "127.0.0.2")
            ]

        monkeypatch.setattr(http._Resolver, "resolve", rebound)
        await failure(uploads.get(sealed.at(url.replace("127.0.0.1", "public.example"))), NotPermitted)
        assert asked == []
        # It is the address that decides: the same requests arrive where loopback is allowed.
        monkeypatch.setattr(uploads, "_networks", lambda: frozenset({"public", "loopback"}))
        assert await uploads.get(sealed.at(url))
        assert asked


async def test_the_application_may_decide(prosody: DevServer, connect: Connect) -> None:
    alice = await connect(prosody, "alice")
    sealed = Sealing(bytes(1000), os.urandom)
    asked: list[str] = []

    def refuse(url: str) -> bool:
        asked.append(url)
        return False

    async with web_server(prosody, serving(sealed.ciphertext)) as url:
        uploads = Uploads(alice, allow_url=refuse)
        await failure(uploads.get(sealed.at(url)), NotPermitted)
        assert asked == [url]
        assert await Uploads(alice, allow_url=lambda url: True).get(sealed.at(url))


def test_references_that_are_none() -> None:
    good = Sealing(b"x", os.urandom).at("https://share.example/a%20b?c#d")
    assert BlobReference.decode(good.encode()) == good
    for url in ("http://share.example/", "ftp://share.example/", "https:///x", "https://a:b@share.example/", "",
                "https", "https://share.example/a b", "https://share.example/ü", "https://share.example/\r\nx",
                "https://x:99999/", "https://[::1", "https://share.example/" + "x" * 2048):  # fmt: skip
        with pytest.raises(MalformedError):
            replace(good, url=url).encode()
        forged = good.encode().replace(b"\x1f" + good.url.encode(), length(url.encode()))
        assert forged != good.encode()
        with pytest.raises(MalformedError):
            BlobReference.decode(forged)
    for field, octets in (("key", bytes(16)), ("nonce", bytes(8)), ("hash", bytes(20))):
        with pytest.raises(ValueError, match="octets"):
            replace(good, **{field: octets}).encode()  # type: ignore[arg-type]
        old: bytes = getattr(good, field)
        with pytest.raises(MalformedError):
            BlobReference.decode(good.encode().replace(bytes([len(old)]) + old, bytes([len(octets)]) + octets))


def length(octets: bytes) -> bytes:
    if len(octets) < 64:
        return bytes([len(octets)]) + octets
    return (0x4000 | len(octets)).to_bytes(2, "big") + octets


# --- upload services that misbehave ----------------------------------------------------------


def serve_slots(client: ClientXMPP, put: str, get: str, headers: Iterable[tuple[str, str]] = ()) -> _Service:
    """A client that is an upload service."""

    def answer(iq: Any) -> None:
        slot = Element(f"{{{NS}}}slot")
        for name, value in headers:
            element = SubElement(slot, f"{{{NS}}}header", {"name": name})
            element.text = value
        element = SubElement(slot, f"{{{NS}}}put", {"url": put})
        element.extend(slot.findall(f"{{{NS}}}header"))
        SubElement(slot, f"{{{NS}}}get", {"url": get})
        reply = iq.reply()
        reply.append(slot)
        reply.send()

    path = f"{{jabber:client}}iq/{{{NS}}}request"
    client.register_handler(Callback("slots", MatchXPath(path), answer))
    return _Service(client.boundjid.full, None)


async def test_headers_and_attempts_of_a_put(prosody: DevServer, connect: Connect) -> None:
    """XEP-0363 5: three headers are sent, others are not; a server that is busy is asked again."""
    alice, service = await connect(prosody, "alice"), await connect(prosody, "service")
    heard: list[web.BaseRequest] = []
    stored: list[bytes] = []

    async def busy(request: web.Request) -> web.StreamResponse:
        heard.append(request)
        stored.append(await request.read())
        return web.Response(status=503 if len(heard) < 3 else 201)

    headers = [("Authorization", "Basic eA=="), ("cOOkie", "a=b"), ("Host", "evil.example"), ("X-Evil", "x"),
               ("Expires", "soon"), ("Content-Length", "1"), ("Transfer-Encoding", "chunked")]  # fmt: skip
    async with web_server(prosody, busy) as url:
        uploads = Uploads(alice, pauses=QUICKLY)
        uploads._service = serve_slots(service, f"{url}/put", f"{url}/get", headers)
        reference = await uploads.put(b"Double, double")
    assert reference.url == f"{url}/get"
    assert len(heard) == 3
    assert reference.open(stored[-1]) == b"Double, double"
    for request in heard:
        assert (request.method, request.path) == ("PUT", "/put")
        assert request.headers["Authorization"] == "Basic eA=="
        assert request.headers["Cookie"] == "a=b"
        assert request.headers["Expires"] == "soon"
        assert "X-Evil" not in request.headers
        assert request.headers["Host"] == url.removeprefix("https://")
        assert request.headers["Content-Length"] == str(reference.size)


async def test_attempts_end(prosody: DevServer, connect: Connect) -> None:
    alice, service = await connect(prosody, "alice"), await connect(prosody, "service")
    statuses: list[int] = []

    async def refuse(request: web.Request) -> web.StreamResponse:
        statuses.append(status)
        return web.Response(status=status, headers={"Location": "https://127.0.0.1/"})

    async with web_server(prosody, refuse) as url:
        uploads = Uploads(alice, pauses=QUICKLY)
        uploads._service = serve_slots(service, url, url)
        for status, attempts in ((500, 3), (403, 1), (413, 1), (307, 1)):
            statuses.clear()
            error = await failure(uploads.put(b"x"), TransferFailed)
            assert str(status) in str(error)
            assert len(statuses) == attempts


async def test_slots_that_are_none(prosody: DevServer, connect: Connect) -> None:
    alice = await connect(prosody, "alice")
    for put, get in (
        ("http://share.example/", "https://share.example/"),
        ("", "https://share.example/"),
        ("https://share.example/", "http://share.example/"),
        ("https://share.example/", ""),
    ):
        service = await connect(prosody, "service")
        uploads = Uploads(alice, pauses=QUICKLY)
        uploads._service = serve_slots(service, put, get)
        assert not (await failure(uploads.put(b"x"), TransferFailed)).temporary
