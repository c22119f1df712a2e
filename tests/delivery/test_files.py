"""Encrypted files: what goes to a web server, what may come back from one, and what is left on the disk."""

from __future__ import annotations

import asyncio
import io
import os
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from slixmpp_mls.delivery import files as files_module
from slixmpp_mls.delivery.files import Files, StoredFile, most_fetched, padded_size
from slixmpp_mls.delivery.upload import Uploads
from slixmpp_mls.errors import BlobTooLarge, MalformedError, NotPermitted, TransferFailed, UsageError
from slixmpp_mls.stanza.file_sharing import HASHES, EncryptedSource, FileMetadata, FileSharing

URL = "https://files.example/1"


class FakeUploads:
    """A web server without a network.

    :ivar stored: octets by URL
    :ivar refusals: errors that the next attempts to put meet, each after so many pieces
    """

    def __init__(self, limit: int | None = None) -> None:
        self.stored: dict[str, bytes] = {}
        self.refusals: list[tuple[int, Exception]] = []
        self.cut = 4096
        self.fetched: list[str] = []
        self._limit = limit

    async def limit(self) -> int | None:
        return self._limit

    async def send(self, size: int, body: Callable[[], AsyncIterator[bytes]]) -> str:
        while True:
            pieces, number = bytearray(), 0
            try:
                async for piece in body():
                    if self.refusals and number == self.refusals[0][0]:
                        raise self.refusals.pop(0)[1]
                    pieces += piece
                    number += 1
            except TransferFailed as error:
                if error.temporary:
                    continue
                raise
            except (UsageError, OSError) as error:
                raise TransferFailed("Failed to send bytes", temporary=False) from error  # as aiohttp puts it
            assert len(pieces) == size
            url = f"https://files.example/{len(self.stored) + 1}"
            self.stored[url] = bytes(pieces)
            return url

    async def fetch(self, url: str, whole: float | None = None) -> AsyncGenerator[bytes, None]:
        self.fetched.append(url)
        if url not in self.stored:
            raise TransferFailed("files.example answered 404", temporary=False)
        octets = self.stored[url]
        for start in range(0, len(octets), self.cut):
            yield octets[start : start + self.cut]


def made(limit: int | None = None) -> tuple[Files, FakeUploads]:
    uploads = FakeUploads(limit)
    return Files(cast("Uploads", uploads)), uploads


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sharing(stored: StoredFile) -> FileSharing:
    return FileSharing(FileMetadata(stored.size, {"sha-256": stored.sha256}), (stored.source,))


@pytest.mark.parametrize("size", [0, 1, 16, 1023, 1024, 1025, 100_000, (1 << 20) - 1, 1 << 20, (3 << 20) + 5])
async def test_there_and_back(size: int, tmp_path: Path) -> None:
    files, uploads = made()
    data = os.urandom(size)
    source = tmp_path / "source"
    source.write_bytes(data)
    for content in (data, source):
        stored = await files.put(content)
        assert (stored.size, stored.sha256) == (size, sha256(data).digest())
        assert await files.read(sharing(stored)) == data
        target = tmp_path / f"target-{len(uploads.stored)}"
        await files.save(sharing(stored), target)
        assert target.read_bytes() == data
        assert target.stat().st_mode & 0o777 == 0o600
    # What lies there: the padded file under AES-256-GCM, the tag at the end; each under a key of its own.
    assert len({octets for octets in uploads.stored.values()}) == 2
    octets = uploads.stored[stored.source.urls[0]]
    assert AESGCM(stored.source.key).decrypt(stored.source.iv, octets, None) == data.ljust(padded_size(size), b"\0")
    assert names(tmp_path) == ["source", "target-1", "target-2"]


@given(st.integers(0, 1 << 36))
def test_padding_hides_the_size_at_little_cost(size: int) -> None:
    """At most 12 % more (PURBs, section 4.3), and the same again for what is padded already."""
    padded = padded_size(size)
    assert size <= padded <= max(1024, size * 1.12)
    assert padded_size(padded) == padded
    assert padded + 16 <= most_fetched(size)


async def test_others_need_not_pad_as_we_do_and_may_use_other_hashes(tmp_path: Path) -> None:
    files, uploads = made()
    data = b"Fair is foul" * 100
    hashes = {name: make() for name, make in HASHES.items()}
    for each in hashes.values():
        each.update(data)
    for key, padding in ((bytes(16), b""), (bytes(32), b"\7" * 5000)):
        uploads.stored[URL] = AESGCM(key).encrypt(bytes(12), data + padding, None)
        file = FileSharing(
            FileMetadata(len(data), {name: each.digest() for name, each in hashes.items()}),
            (EncryptedSource(key, bytes(12), (URL,)),),
        )
        assert await files.read(file) == data


@pytest.mark.parametrize("spoil", ["flipped", "shorter", "longer", "empty", "tag", "no tag", "other"])
async def test_what_is_not_the_file_is_not_handed_out(spoil: str, tmp_path: Path) -> None:
    files, uploads = made()
    data = os.urandom(50_000)
    stored = await files.put(data)
    octets = uploads.stored[stored.source.urls[0]]
    uploads.stored[stored.source.urls[0]] = {
        "flipped": octets[:500] + bytes([octets[500] ^ 1]) + octets[501:],
        "shorter": octets[:40_000],
        "longer": octets + b"x",
        "empty": b"",
        "tag": octets[:-1] + bytes([octets[-1] ^ 1]),
        "no tag": octets[:-16],
        "other": os.urandom(len(octets)),
    }[spoil]
    target = tmp_path / "target"
    with pytest.raises(MalformedError):
        await files.save(sharing(stored), target)
    with pytest.raises(MalformedError):
        await files.read(sharing(stored))
    assert names(tmp_path) == []


async def test_every_hash_is_compared(tmp_path: Path) -> None:
    """XEP-0447, "Security Considerations": the ciphertext is what its key says, and yet not the announced file."""
    files, _ = made()
    stored = await files.put(b"the other file")
    for hashes in (
        {"sha-256": sha256(b"the file").digest()},
        {"sha-256": stored.sha256, "sha3-256": bytes(32)},
    ):
        wrong = FileSharing(FileMetadata(stored.size, hashes), (stored.source,))
        with pytest.raises(MalformedError, match="another hash"):
            await files.save(wrong, tmp_path / "target")
    for size in (stored.size - 1, stored.size + 1):
        with pytest.raises(MalformedError):
            await files.read(FileSharing(FileMetadata(size, {"sha-256": stored.sha256}), (stored.source,)))
    assert names(tmp_path) == []


async def test_limits_of_the_receiver(tmp_path: Path) -> None:
    files, uploads = made()
    stored = await files.put(bytes(2000))
    for work in (files.read(sharing(stored), limit=1999), files.save(sharing(stored), tmp_path / "x", limit=1999)):
        with pytest.raises(BlobTooLarge):
            await work
    assert uploads.fetched == []  # the message has said enough
    assert await files.read(sharing(stored), limit=2000) == bytes(2000)

    sent = 0

    async def endless(url: str, whole: float | None = None) -> AsyncGenerator[bytes, None]:
        nonlocal sent
        while True:
            yield bytes(1 << 16)
            sent += 1 << 16

    uploads.fetch = endless  # type: ignore[method-assign]
    with pytest.raises(MalformedError, match="more than"):
        await files.save(sharing(stored), tmp_path / "x")
    assert sent < most_fetched(2000) + (4 << 20)
    assert names(tmp_path) == []


async def test_the_limit_of_the_service() -> None:
    """Padding gives way to it."""
    files, uploads = made(5000 + 16)
    stored = await files.put(bytes(5000))
    assert [len(octets) for octets in uploads.stored.values()] == [5016]
    assert await files.read(sharing(stored)) == bytes(5000)
    with pytest.raises(BlobTooLarge) as caught:
        await files.put(bytes(5001))
    assert (caught.value.size, caught.value.limit) == (5017, 5016)


async def test_other_places_are_tried_but_not_without_end() -> None:
    files, uploads = made()
    stored = await files.put(b"here")
    (url,) = stored.source.urls

    def at(*urls: str) -> FileSharing:
        return replace(sharing(stored), sources=(replace(stored.source, urls=urls),))

    uploads.stored["https://files.example/bad"] = bytes(1040)
    assert await files.read(at("https://gone.example/", "https://files.example/bad", url)) == b"here"
    uploads.fetched.clear()
    with pytest.raises(TransferFailed):  # the first one's failure
        await files.read(at(*(f"https://gone.example/{n}" for n in range(16))))
    assert len(uploads.fetched) == 4
    with pytest.raises(TransferFailed, match="no place"):
        await files.read(replace(sharing(stored), sources=()))


async def test_an_attempt_again_takes_another_key(tmp_path: Path) -> None:
    """The file may have changed between the two: one key and nonce never encrypt two contents."""
    files, uploads = made()
    source = tmp_path / "log"
    source.write_bytes(b"a" * 3_000_000)
    keys = []
    original = files_module._Encryption.__init__

    def recorded(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        keys.append((self.key, self.nonce))
        source.write_bytes(bytes([len(keys)]) * 3_000_000)

    seen: list[tuple[int, int]] = []
    uploads.refusals = [(2, TransferFailed("busy", temporary=True)), (0, TransferFailed("busy", temporary=True))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files_module._Encryption, "__init__", recorded)
        stored = await files.put(source, lambda done, total: seen.append((done, total)))
    assert len(set(keys)) == 3
    assert (stored.source.key, stored.source.iv) == keys[-1]
    assert await files.read(sharing(stored)) == b"\3" * 3_000_000
    total = padded_size(3_000_000) + 16
    assert seen[-1] == (total, total)
    assert {of for _, of in seen} == {total}
    again = next(n for n in range(1, len(seen)) if seen[n][0] <= seen[n - 1][0])
    assert 0 < again < len(seen) - 1  # the progress began anew


async def test_files_that_cannot_be_sent(tmp_path: Path) -> None:
    files, uploads = made()
    with pytest.raises(UsageError, match="no file"):
        await files.put(tmp_path / "nothing")
    with pytest.raises(UsageError, match="no regular file"):
        await files.put(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="no regular file"):
        await files.put(tmp_path / "pipe")
    shrinking = tmp_path / "shrinking"
    shrinking.write_bytes(bytes(3 << 20))
    with pytest.raises(UsageError, match="shorter"):
        await files.put(shrinking, lambda done, total: os.truncate(shrinking, 10))
    assert uploads.stored == {}


async def test_a_growing_file_is_sent_as_long_as_it_was(tmp_path: Path) -> None:
    files, _ = made()
    growing = tmp_path / "log"
    growing.write_bytes(b"a" * (2 << 20))

    def grow(done: int, total: int) -> None:
        with growing.open("ab") as file:
            file.write(b"b" * 1000)

    stored = await files.put(growing, grow)
    assert await files.read(sharing(stored)) == b"a" * (2 << 20)


async def test_existing_files(tmp_path: Path) -> None:
    files, uploads = made()
    stored = await files.put(b"new")
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with pytest.raises(UsageError, match="exists"):
        await files.save(sharing(stored), target)
    assert uploads.fetched == []
    await files.save(sharing(stored), target, overwrite=True)
    assert target.read_bytes() == b"new"

    # One that comes while we fetch is not replaced either.
    other = tmp_path / "other"

    def comes(done: int, total: int) -> None:
        other.write_bytes(b"mine")

    with pytest.raises(UsageError, match="exists"):
        await files.save(sharing(stored), other, progress=comes)
    assert other.read_bytes() == b"mine"
    assert names(tmp_path) == ["other", "target"]

    with pytest.raises(FileNotFoundError):
        await files.save(sharing(stored), tmp_path / "no" / "folder")


async def test_a_cancelled_caller_leaves_nothing(tmp_path: Path) -> None:
    files, _ = made()
    stored = await files.put(bytes(5 << 20))
    begun = asyncio.Event()
    work = asyncio.create_task(
        files.save(sharing(stored), tmp_path / "target", progress=lambda done, total: begun.set())
    )
    await begun.wait()
    assert len(names(tmp_path)) == 1
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert names(tmp_path) == []


async def test_a_report_that_fails_is_not_the_transfers_failure(caplog: pytest.LogCaptureFixture) -> None:
    def failing(done: int, total: int) -> None:
        raise ValueError("no progress")

    files, _ = made()
    stored = await files.put(b"x", failing)
    assert await files.read(sharing(stored), progress=failing) == b"x"
    assert "report of progress" in caplog.text


async def test_an_address_that_is_not_allowed_is_not_passed_over_in_silence() -> None:
    files, uploads = made()
    stored = await files.put(b"x")

    async def refuse(url: str, whole: float | None = None) -> AsyncGenerator[bytes, None]:
        raise NotPermitted("nothing is to be fetched from there")
        yield b""

    uploads.fetch = refuse  # type: ignore[method-assign]
    with pytest.raises(NotPermitted):
        await files.read(sharing(stored))


class Sink(io.RawIOBase):
    """Swallows all."""

    def write(self, data: Any) -> int:
        return len(data)


@pytest.mark.slow
async def test_two_gigabytes_take_no_more_memory_than_a_few_pieces(tmp_path: Path) -> None:
    size = 2 << 30
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.truncate(size)
    uploads = FakeUploads()
    most = 0

    async def send(total: int, body: Callable[[], AsyncIterator[bytes]]) -> str:
        """The octets that arrive are decrypted at once."""
        nonlocal most
        encryption = body()
        first = await anext(encryption)
        made = attempts[-1]
        source_ = EncryptedSource(made.key, made.nonce, (URL,))
        decryption = files_module._Decryption(
            FileSharing(FileMetadata(size, {"sha-256": bytes(32)}), (source_,)), source_, cast("Any", Sink())
        )
        decryption.update(first)
        async for piece in encryption:
            decryption.update(piece)
        assert decryption.written == size
        with pytest.raises(MalformedError, match="another hash"):  # the tag is right
            decryption.finish(b"")
        return URL

    attempts: list[Any] = []
    original = files_module._Encryption.__init__

    def recorded(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        attempts.append(self)

    uploads.send = send  # type: ignore[method-assign, assignment]
    tracemalloc.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files_module._Encryption, "__init__", recorded)
            stored = await Files(cast("Uploads", uploads)).put(source)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stored.size == size
    assert most < 16 << 20
