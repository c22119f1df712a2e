"""Files in a room: the implementation of :meth:`.EncryptedRoom.send_file` and :attr:`.EncryptedMessage.files`.

A file is encrypted and uploaded to the account's upload service (:mod:`slixmpp_mls.delivery.files`).  A message gives
the members its address and its key (:mod:`slixmpp_mls.stanza.file_sharing`).  A holder of the message can read the file
for as long as the service keeps it: deletion of the group's keys does not protect it.

A caption is the file's description (XEP-0446), and the body of the message, so that programs without support for files
show it (XEP-0447, "Sharing a file").  Pictures have their size and a thumbhash (:mod:`.pictures`).
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final

from slixmpp import JID, ClientXMPP
from slixmpp.stanza import Message

from ..delivery.files import MAX_KEPT_IN_MEMORY, MAX_SAVED, Files, ReportProgress, in_thread
from ..errors import MalformedError, UsageError
from ..stanza.file_sharing import Disposition, FileMetadata, FileSharing, Thumbnail, plain_name, read_files
from ..stanza.xml import to_stdlib
from .pictures import look_at

__all__ = ["File", "FileProgress", "RoomFiles"]

_UNKNOWN: Final = "application/octet-stream"
_BETWEEN_REPORTS: Final = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class FileProgress:
    """``mls_file_progress``: the progress of a file, about ten times a second at most, and at the end.

    :ivar room: bare JID
    :ivar name: of the file; None if it has none
    :ivar sending: whether it is uploaded; else it is fetched
    :ivar done: octets
    :ivar total: octets; when sending, of the encrypted and padded file
    """

    room: str
    name: str | None
    sending: bool
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class File:
    """A file in a message.  Nothing has been fetched yet.

    :ivar sharing: the message's description of it
    """

    sharing: FileSharing
    _room: RoomFiles = field(repr=False)

    @property
    def name(self) -> str | None:
        """The sender's name for it: never a path, and without misleading characters; None if there is none."""
        return self.sharing.file.name

    @property
    def size(self) -> int:
        """Octets."""
        return self.sharing.file.size

    @property
    def media_type(self) -> str | None:
        """The media type that the sender states, without parameters: ``image/png``."""
        return self.sharing.file.media_type

    @property
    def caption(self) -> str | None:
        """The sender's description of it."""
        return self.sharing.file.description

    @property
    def hashes(self) -> dict[str, bytes]:
        """Hash values by the algorithm names of XEP-0300: ``sha-256`` ..."""
        return dict(self.sharing.file.hashes)

    @property
    def thumbnail(self) -> Thumbnail | None:
        """A small picture inside the message, usually of type ``image/thumbhash``."""
        return next(iter(self.sharing.file.thumbnails), None)

    async def save(
        self,
        path: str | Path,
        *,
        limit: int = MAX_SAVED,
        overwrite: bool = False,
        progress: ReportProgress | None = None,
    ) -> Path:
        """Fetch, decrypt and verify it.  A file of that name appears only when all of it is verified.

        Only our own user can read it (mode 0600).  The operator of the web server learns our network address;
        :mod:`slixmpp_mls.delivery.upload` lists the addresses from which nothing is fetched.

        :param path: the new file's path; or a folder, in which it gets the name that its sender has given it
        :param limit: octets; 4 GiB
        :param overwrite: whether a file of that name is replaced
        :param progress: called with the number of octets fetched, and the total
        :returns: the path of the file
        :raises UsageError: there is a file of that name
        :raises BlobTooLarge: it is over the limit
        :raises NotPermitted: it is at an address from which nothing is fetched
        :raises MalformedError: the content differs from the message's description
        :raises TransferFailed: it cannot be fetched; `temporary` tells whether to try again
        :raises OSError: it cannot be written
        """
        target = await in_thread(self._target, Path(path))
        files = self._room.files
        report = self._room.reporting(self.name, sending=False, progress=progress)
        await files.save(self.sharing, target, limit=limit, overwrite=overwrite, progress=report)
        return target

    def _target(self, path: Path) -> Path:
        return path / (self.name or "file") if path.is_dir() else path

    async def read(self, limit: int = MAX_KEPT_IN_MEMORY, *, progress: ReportProgress | None = None) -> bytes:
        """Fetch, decrypt and verify it, into memory.

        :param limit: octets; 16 MiB
        :param progress: as of :meth:`save`
        :raises: as :meth:`save`, except errors about its name
        """
        report = self._room.reporting(self.name, sending=False, progress=progress)
        return await self._room.files.read(self.sharing, limit=limit, progress=report)


class RoomFiles:
    """Sends files to a room, and provides the files of its messages.

    :param fire: fires an event for the application
    """

    def __init__(self, xmpp: ClientXMPP, files: Files, room: str, fire: Callable[[str, object], None]) -> None:
        self.files = files
        self._xmpp = xmpp
        self._room = room
        self._fire = fire

    async def message_with(
        self,
        content: str | Path | bytes,
        *,
        caption: str | None,
        name: str | None,
        media_type: str | None,
        disposition: Disposition | None,
        progress: ReportProgress | None,
    ) -> Message:
        """Upload a file, and make the message that announces it; parameters and errors as of `send_file`."""
        if not isinstance(content, bytes | str | Path):
            raise UsageError(f"a file is given by its path or as octets, not as {type(content).__name__}")
        data = Path(content) if isinstance(content, str) else content
        if isinstance(data, Path) and not _can_be_path(data):
            raise UsageError("a path has neither NUL nor half characters")
        name = plain_name(name if name is not None else data.name if isinstance(data, Path) else "")
        kind = (media_type or mimetypes.guess_type(name or "")[0] or _UNKNOWN).lower()
        picture = await in_thread(look_at, data) if kind.startswith("image/") else None
        try:  # errors in these are reported before anything is uploaded
            description = FileMetadata(0, {"sha-256": bytes(32)}, media_type=kind, description=caption).description
        except MalformedError as error:
            raise UsageError(str(error)) from None
        stored = await self.files.put(data, self.reporting(name, sending=True, progress=progress))
        metadata = FileMetadata(
            stored.size,
            {"sha-256": stored.sha256},
            name=name,
            media_type=kind,
            description=description,
            width=None if picture is None else picture.width,
            height=None if picture is None else picture.height,
            thumbnails=() if picture is None or picture.thumbnail is None else (picture.thumbnail,),
        )
        if disposition is None:
            disposition = "inline" if kind.startswith("image/") else "attachment"
        message: Message = self._xmpp.make_message(mto=JID(self._room), mtype="groupchat")
        if caption:
            message["body"] = caption
        message.xml.append(to_stdlib(FileSharing(metadata, (stored.source,), disposition).to_lxml()))
        return message

    def of(self, message: Message) -> tuple[File, ...]:
        """The files of a message, except those that break XEP-0448."""
        return tuple(File(sharing, self) for sharing in read_files(message.xml)[0])

    def reporting(self, name: str | None, *, sending: bool, progress: ReportProgress | None) -> ReportProgress:
        """Reports progress at a limited rate."""
        last = -_BETWEEN_REPORTS

        def report(done: int, total: int) -> None:
            nonlocal last
            if progress is not None:
                progress(done, total)
            if done == total or monotonic() - last >= _BETWEEN_REPORTS:
                last = monotonic()
                self._fire("mls_file_progress", FileProgress(self._room, name, sending, done, total))

        return report


def _can_be_path(path: Path) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False
