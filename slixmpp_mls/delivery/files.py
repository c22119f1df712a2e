"""Uploads encrypted files (XEP-0448) to the account's service (XEP-0363), and downloads those that a message names.

A file is processed in pieces: the memory in use does not depend on the file's size.

Upload
    The file is read, hashed, padded, encrypted and sent piece by piece.  Each attempt uses a fresh key, because the
    file can change between two attempts: one key and nonce never encrypt two contents.  No copy is made on the disk.

Download
    The octets are decrypted into a temporary file in the target's folder, which only our user may read.  The file is
    verified when it is complete: the tag (of AES-GCM), the size and every hash that the message gives.  Then the
    temporary file gets the target's name in one step.  No octet is handed out before that.  After any failure the
    temporary file is removed.

Sizes are limited on both sides.  The sender asks the service for its limit.  The receiver sets its own (`limit`)
and reads at most :func:`most_fetched` octets, whatever the web server sends.  :mod:`.upload` restricts the addresses
from which files are fetched.

The padding hides the size: PADMÉ (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication
with PURBs", 2019, algorithm 1) adds at most 12 %, and about 3 % to large files.  For a size of n octets, it
reveals only O(log(log(n))) bits.
"""

from __future__ import annotations

import asyncio
import hmac
import io
import logging
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from ..errors import BlobTooLarge, DeliveryError, MalformedError, TransferFailed, UsageError
from ..stanza.file_sharing import HASHES, MAX_FILE_SIZE, EncryptedSource, FileSharing
from .upload import Uploads

__all__ = [
    "MAX_KEPT_IN_MEMORY", "MAX_SAVED", "Files", "ReportProgress", "StoredFile", "in_thread", "most_fetched",
    "padded_size",
]  # fmt: skip

log = logging.getLogger(__name__)

ReportProgress = Callable[[int, int], None]
"""Called with the number of octets transferred so far, and with their total number."""

MAX_SAVED: Final = 4 << 30
"""Default limit for a file that is saved, in octets."""
MAX_KEPT_IN_MEMORY: Final = 16 << 20
"""Default limit for a file that is read into memory, in octets."""

_PIECE: Final = 1 << 20
_TAG: Final = 16
_SMALLEST: Final = 1024
_ATTEMPTS: Final = 4  # URLs that are tried for one file; a sender may name more

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """The result of an upload.

    :ivar size: octets of the plain file
    :ivar sha256: the hash of the plain file
    """

    size: int
    sha256: bytes
    source: EncryptedSource


def padded_size(size: int) -> int:
    """The size of a file after padding, in octets."""
    if size <= _SMALLEST:
        return _SMALLEST
    exponent = size.bit_length() - 1
    step = 1 << (exponent - exponent.bit_length())
    return (size + step - 1) // step * step


def most_fetched(size: int) -> int:
    """The most octets to fetch for a file of this size.  The sender may use any padding."""
    return 2 * size + (1 << 20) + _TAG


class Files:
    """Uploads and downloads encrypted files.

    :param uploads: the account's upload service
    """

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads

    async def put(self, content: Path | bytes, progress: ReportProgress | None = None) -> StoredFile:
        """Encrypt a file and upload it.

        :param content: the path of the file, or its content
        :param progress: in octets of the encrypted file; starts again from 0 at another attempt
        :raises UsageError: there is no such file, or it becomes shorter during the upload
        :raises OSError: it cannot be read
        :raises NoUploadService: our server has none
        :raises BlobTooLarge: over the limit of the service, or of one AES-GCM key
        :raises Refused, NotPermitted: the service gives us no slot, for example because of a quota
        :raises TransferFailed: the web server refuses it; a temporary failure is raised after several attempts
        :raises Disconnected: there is no stream
        """
        limit = await self._uploads.limit()
        size = len(content) if isinstance(content, bytes) else _size_of(content)
        most = MAX_FILE_SIZE if limit is None else min(limit - _TAG, MAX_FILE_SIZE)
        if size > most:
            raise BlobTooLarge(size + _TAG, most + _TAG)
        total = min(padded_size(size), most) + _TAG
        attempts: list[_Encryption] = []

        def body() -> AsyncIterator[bytes]:
            if attempts and attempts[-1].failure is not None:
                raise attempts[-1].failure
            attempts.append(_Encryption(content, size, total - _TAG))
            return _pieces(attempts[-1], total, progress)

        try:
            url = await self._uploads.send(total, body)
        except TransferFailed:
            if attempts and attempts[-1].failure is not None:
                raise attempts[-1].failure from None  # our own error, not the network's
            raise
        done = attempts[-1]
        return StoredFile(size, done.digest.digest(), EncryptedSource(done.key, done.nonce, (url,)))

    async def save(
        self,
        sharing: FileSharing,
        target: Path,
        *,
        limit: int = MAX_SAVED,
        overwrite: bool = False,
        progress: ReportProgress | None = None,
    ) -> None:
        """Fetch a file, decrypt and verify it, and save it under a name.  Only our user may read it (mode 0600).

        :param target: the path of the file; its folder must exist
        :param limit: octets
        :param overwrite: whether a file of that name is replaced
        :param progress: in octets of the plain file
        :raises UsageError: a file of that name exists
        :raises BlobTooLarge: it is over the limit
        :raises NotPermitted: its address is not one that may be fetched from
        :raises MalformedError: the content is not what the message describes
        :raises TransferFailed: it cannot be fetched; `temporary` says whether to try again
        :raises OSError: it cannot be written
        """
        _check_limit(sharing, limit)
        with _replacing(target, overwrite) as out:
            await self._get(sharing, out, progress)
            await in_thread(_flush, out)

    async def read(
        self, sharing: FileSharing, *, limit: int = MAX_KEPT_IN_MEMORY, progress: ReportProgress | None = None
    ) -> bytes:
        """Fetch a file, decrypt and verify it, into memory.

        :param limit: octets
        :param progress: in octets of the plain file
        :raises: as :meth:`save`, except for the errors about the file's name
        """
        _check_limit(sharing, limit)
        out = io.BytesIO()
        await self._get(sharing, out, progress)
        return out.getvalue()

    async def _get(self, sharing: FileSharing, out: BinaryIO, progress: ReportProgress | None) -> None:
        """Fetch from the first URL whose content is what the message describes."""
        places = [(source, url) for source in sharing.sources for url in source.urls]
        if not places:
            raise TransferFailed("the message names no place from which this file can be fetched", temporary=False)
        problems: list[DeliveryError | MalformedError] = []
        for source, url in places[:_ATTEMPTS]:
            try:
                await self._get_from(sharing, source, url, out, progress)
                return
            except (DeliveryError, MalformedError) as error:
                problems.append(error)
                out.seek(0)
                out.truncate()
        raise problems[0]

    async def _get_from(
        self, sharing: FileSharing, source: EncryptedSource, url: str, out: BinaryIO, progress: ReportProgress | None
    ) -> None:
        decryption = _Decryption(sharing, source, out)
        total = sharing.file.size
        waiting = bytearray()
        async with aclosing(self._uploads.fetch(url, None)) as chunks:
            async for chunk in chunks:
                waiting += chunk
                if len(waiting) >= _PIECE:
                    await in_thread(decryption.update, bytes(waiting))
                    waiting.clear()
                    _report(progress, decryption.written, total)
        await in_thread(decryption.finish, bytes(waiting))
        _report(progress, total, total)


# --- encrypting ------------------------------------------------------------------------------


class _Encryption:
    """One pass over a file, with a file handle and a key of its own."""

    def __init__(self, content: Path | bytes, size: int, padded: int) -> None:
        self.key, self.nonce = os.urandom(32), os.urandom(12)
        self.digest = sha256()
        self.failure: Exception | None = None
        self._content = content
        self._size, self._padding = size, padded - size

    def pieces(self) -> Generator[bytes, None, None]:
        """The ciphertext, and the tag at its end (XEP-0448, "Ciphers")."""
        cipher = Cipher(AES(self.key), GCM(self.nonce)).encryptor()
        left, padding = self._size, self._padding
        with io.BytesIO(self._content) if isinstance(self._content, bytes) else self._content.open("rb") as file:
            while left:
                piece = file.read(min(left, _PIECE))
                if not piece:
                    raise UsageError("the file has become shorter while it was sent")
                left -= len(piece)
                self.digest.update(piece)
                yield cipher.update(piece)
        while padding:
            count = min(padding, _PIECE)
            padding -= count
            yield cipher.update(bytes(count))
        yield cipher.finalize() + cipher.tag


async def _pieces(encryption: _Encryption, total: int, progress: ReportProgress | None) -> AsyncIterator[bytes]:
    """The pieces of an encryption, made in threads."""
    pieces, done = encryption.pieces(), 0
    try:
        while piece := await in_thread(next, pieces, b""):
            yield piece
            done += len(piece)
            _report(progress, done, total)
    except (UsageError, OSError) as error:
        encryption.failure = error
        raise
    finally:
        pieces.close()


# --- decrypting ------------------------------------------------------------------------------


class _Decryption:
    """One pass over the octets that a web server sends.

    :ivar written: octets of the plain file so far, not verified yet
    """

    def __init__(self, sharing: FileSharing, source: EncryptedSource, out: BinaryIO) -> None:
        self.written = 0
        self._file = sharing.file
        self._out = out
        self._hashes = {name: HASHES[name]() for name in sharing.file.hashes}
        self._cipher = Cipher(AES(source.key), GCM(source.iv, None, _TAG)).decryptor()
        self._received = 0
        self._tail = b""  # may be the tag

    def update(self, octets: bytes) -> None:
        self._received += len(octets)
        if self._received > most_fetched(self._file.size):
            raise MalformedError(f"more than the {self._file.size} octets that the message says")
        octets = self._tail + octets
        self._tail = octets[-_TAG:]
        plain = self._cipher.update(octets[:-_TAG])[: self._file.size - self.written]  # XEP-0448: the padding is cut
        for each in self._hashes.values():
            each.update(plain)
        self._out.write(plain)
        self.written += len(plain)

    def finish(self, octets: bytes) -> None:
        """Process the last octets and verify the file.

        :raises MalformedError: it is not the file that the message describes
        """
        self.update(octets)
        if len(self._tail) < _TAG or self.written < self._file.size:
            raise MalformedError(f"less than the {self._file.size} octets that the message says")
        try:
            self._cipher.finalize_with_tag(self._tail)
        except InvalidTag:
            raise MalformedError("a file that its key does not open") from None
        for name, digest in self._file.hashes.items():  # XEP-0447, "Security Considerations"
            if not hmac.compare_digest(self._hashes[name].digest(), digest):
                raise MalformedError("a file with another hash than the message says")


def _report(progress: ReportProgress | None, done: int, total: int) -> None:
    """Call the application's function.  Its error does not fail the transfer."""
    if progress is not None:
        try:
            progress(done, total)
        except Exception:
            log.exception("the application's report of progress failed")


def _check_limit(sharing: FileSharing, limit: int) -> None:
    if sharing.file.size > limit:
        raise BlobTooLarge(sharing.file.size, limit)


# --- the disk --------------------------------------------------------------------------------


def _size_of(path: Path) -> int:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its other end
        raise UsageError(f"{path} is no regular file")
    return status.st_size


def _flush(out: BinaryIO) -> None:
    out.flush()
    os.fsync(out.fileno())


@contextmanager
def _replacing(target: Path, overwrite: bool) -> Iterator[BinaryIO]:
    """A temporary file that is renamed to the target on success, and removed on failure."""
    if not overwrite and os.path.lexists(target):
        raise UsageError(f"{target} exists already: give another path")
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=target.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as out:
            yield out
        if overwrite:
            part.replace(target)
        else:
            _name(part, target)
    finally:
        part.unlink(missing_ok=True)


def _name(part: Path, target: Path) -> None:
    """Give the file its name; fail if the name is taken."""
    try:
        os.link(part, target)  # fails if the target exists; a rename would replace it
    except FileExistsError:
        raise UsageError(f"{target} exists already: give another path") from None
    except OSError:  # the file system has no links
        if os.path.lexists(target):
            raise UsageError(f"{target} exists already: give another path") from None
        part.replace(target)


async def in_thread(function: Callable[..., _T], *arguments: object) -> _T:
    """Run in a thread.  After a cancellation, wait for its end, since the caller then closes the files that it uses."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        with suppress(BaseException):
            await asyncio.wait([work])
        raise
