"""Encrypted files over HTTP upload, streamed to each server as it comes, and to and from ones that misbehave."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from aiohttp import web
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

from slixmpp_mls.delivery import Uploads, http
from slixmpp_mls.delivery.files import Files, StoredFile, padded_size
from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import BlobTooLarge, MalformedError, NotPermitted, TransferFailed
from slixmpp_mls.stanza.file_sharing import EncryptedSource, FileMetadata, FileSharing

from .test_upload import NS as UPLOAD
from .test_upload import QUICKLY, Connect, on_disk, serve_slots, web_server

MARK = b"Double, double toil and trouble, unseen by any server"


def sharing(stored: StoredFile) -> FileSharing:
    return FileSharing(FileMetadata(stored.size, {"sha-256": stored.sha256}), (stored.source,))


async def test_put_by_one_and_saved_by_another(server: DevServer, connect: Connect, tmp_path: Path) -> None:
    alice, bob = await connect(server, "alice"), await connect(server, "bob")
    source, target = tmp_path / "source", tmp_path / "target"
    data = MARK + os.urandom(7_000_000)
    source.write_bytes(data)
    sent: list[tuple[int, int]] = []
    got: list[tuple[int, int]] = []
    stored = await Files(Uploads(alice)).put(source, lambda *progress: sent.append(progress))
    await Files(Uploads(bob)).save(sharing(stored), target, progress=lambda *progress: got.append(progress))
    assert target.read_bytes() == data
    total = padded_size(len(data)) + 16
    assert len(sent) > 3
    assert sent[-1] == (total, total)
    assert got[-1] == (len(data), len(data))
    assert [done for done, _ in got] == sorted({done for done, _ in got} | {len(data)})
    assert not on_disk(server, MARK)


async def test_more_than_the_service_takes(server: DevServer, connect: Connect, tmp_path: Path) -> None:
    uploads = Uploads(await connect(server, "alice"))
    limit = await uploads.limit()
    assert limit is not None
    sparse = tmp_path / "sparse"
    sparse.touch()
    os.truncate(sparse, limit)
    with pytest.raises(BlobTooLarge) as caught:
        await Files(uploads).put(sparse)
    assert caught.value.limit == limit


async def test_octets_are_streamed_with_their_number(prosody: DevServer, connect: Connect, tmp_path: Path) -> None:
    """XEP-0363 5: Content-Length is that of the request; what breaks off is sent again, from the beginning."""
    alice, service = await connect(prosody, "alice"), await connect(prosody, "service")
    source = tmp_path / "source"
    source.write_bytes(os.urandom(6_000_000))
    heard: list[web.BaseRequest] = []
    stored: dict[str, bytes] = {}

    async def serve(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.Response(body=stored["it"])
        heard.append(request)
        if len(heard) == 1:
            await request.content.readexactly(2_000_000)
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        stored["it"] = await request.content.read()
        return web.Response(status=201)

    async with web_server(prosody, serve) as url:
        uploads = Uploads(alice, pauses=QUICKLY)
        uploads._service = serve_slots(service, f"{url}/put", f"{url}/get")
        done = await Files(uploads).put(source)
        assert await Files(Uploads(alice)).read(sharing(done)) == source.read_bytes()
    assert len(heard) == 2
    for request in heard:
        assert request.headers["Content-Length"] == str(padded_size(6_000_000) + 16)
        assert "Transfer-Encoding" not in request.headers


async def test_a_service_that_takes_nothing_more(
    prosody: DevServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, service = await connect(prosody, "alice"), await connect(prosody, "service")
    monkeypatch.setattr(http, "_STALLED", 0.3)
    over = asyncio.Event()
    slots: list[object] = []  # one for each attempt; on a busy machine not each of them gets as far as the web server

    async def stall(request: web.Request) -> web.StreamResponse:
        await over.wait()
        return web.Response(status=201)

    async with web_server(prosody, stall) as url:
        uploads = Uploads(alice, pauses=QUICKLY)
        uploads._service = serve_slots(service, url, url)
        asked = MatchXPath(f"{{jabber:client}}iq/{{{UPLOAD}}}request")
        service.register_handler(Callback("attempts", asked, slots.append))
        with pytest.raises(TransferFailed) as caught:
            async with asyncio.timeout(120):
                await Files(uploads).put(bytes(30_000_000))
        over.set()
    assert caught.value.temporary
    assert len(slots) == 3


async def test_a_web_server_that_stops_or_gives_too_much(
    prosody: DevServer, connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = Files(Uploads(await connect(prosody, "alice")))
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(2000):
            await response.write(bytes(100_000))
            sent += 100_000
            if request.path == "/stalls":
                await asyncio.sleep(3)
        return response

    async with web_server(prosody, endless) as url:

        def at(path: str) -> FileSharing:
            source = EncryptedSource(bytes(32), bytes(12), (url + path,))
            return FileSharing(FileMetadata(1_000_000, {"sha-256": bytes(32)}), (source,))

        with pytest.raises(MalformedError, match="more than"):
            await files.save(at("/endless"), tmp_path / "target")
        assert sent < 30_000_000
        monkeypatch.setattr(http, "_STALLED", 0.3)
        with pytest.raises(TransferFailed):
            await files.save(at("/stalls"), tmp_path / "target")
    assert os.listdir(tmp_path) == []


async def test_addresses_that_nothing_is_fetched_from(prosody: DevServer, connect: Connect) -> None:
    """The rule of :mod:`slixmpp_mls.delivery.networks`: a sender must not reach into networks that only we reach."""
    files = Files(Uploads(await connect(prosody, "alice")))
    for host in ("10.0.0.1", "169.254.169.254", "[fd00::1]", "2130706433"):
        source = EncryptedSource(bytes(32), bytes(12), (f"https://{host}/",))
        with pytest.raises(NotPermitted):
            await files.read(FileSharing(FileMetadata(1, {"sha-256": bytes(32)}), (source,)))
