"""The files of a store: for one process, and for their owner only.

**One process.**  Two clients running on the same state would encrypt with the same keys.  An operating-system lock on
``<path>.lock`` is held while the store is open.  It vanishes with the process, so a crash leaves nothing to clean up;
the empty lock file stays, because removing it would let two processes lock two different files of that name.  SQLite's
own exclusive mode is the second protection (for file systems that do not implement ``flock``), and needs no
shared-memory file.

**For its owner only.**  New files are made exclusively (``O_EXCL``), mode 0600, which the log inherits; all are judged
once more when SQLite has opened them, before anything is written.  A file of the store that exists already is used only
if it is a regular file, belongs to the user who runs this, and nobody else may read or write it.  Otherwise another
user, by a file or a symlink put there before, could read our keys or give us theirs.  The folder is not judged: a user
with the right to write to it can remove the store, and cannot read it.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import ClassVar

from ..errors import StoreError, StoreFull, StoreLocked

__all__ = [
    "MAKE_SPACE", "MAY_WRITE", "PLAIN", "Lock", "check_own", "first_octets", "open_own", "resolved", "sync_folder",
]  # fmt: skip

PLAIN = b"SQLite format 3\0"  # the first octets of a file that is not encrypted

# What the user can do, in the texts of errors.
MAKE_SPACE = "free some space (or raise the limit), then start again"
MAY_WRITE = "this program must be allowed to write to the folder and to the files of the store in it"
_MAKE_FOLDER = "make its folder, or name another file"


class Lock:
    """An exclusive lock of the operating system on ``<path>.lock``; it ends at the latest with the process."""

    _held: ClassVar[set[Path]] = set()  # in this process; only for the words of an error

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.fdopen(open_own(Path(f"{path}.lock")), "r+b")
        except OSError as error:
            raise _unopenable(path, error) from error
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            what_to_do = "stop that program, or use another store"
            if path.absolute() in self._held:
                what_to_do = (
                    "it is in this process: disconnecting does not close the store, "
                    '`async with connected(bot)` or `bot.plugin.disable("mls")` does'
                )
            raise StoreLocked(f"another client has the store {path} open; {what_to_do}") from error
        self._path = path.absolute()
        self._held.add(self._path)

    def release(self) -> None:
        """Let another client open the store.  Idempotent."""
        if sys.platform != "win32" and not self._file.closed:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_UN)  # at once, even where a forked child still has the descriptor
        self._file.close()
        self._held.discard(self._path)


def resolved(path: str | os.PathLike[str]) -> Path:
    """The absolute path.  Folders on the way may be symlinks; whether the file is one is judged when it is opened."""
    file = Path(path)
    return Path(os.path.realpath(file.parent), file.name)


def open_own(path: Path) -> int:
    """Open a file of the store for reading and writing, made exclusively if it is missing.

    :raises StoreError: it cannot be opened, or is not for its owner only
    """
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        try:
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            check_own(path, os.lstat(path))
            opened = os.open(path, flags)
    except OSError as error:
        raise _unopenable(path, error) from error
    try:
        check_own(path, os.fstat(opened))  # what is open, whatever bears the name now
    except BaseException:
        os.close(opened)
        raise
    return opened


def check_own(path: Path, found: os.stat_result) -> None:
    """:raises StoreError: the file is a symlink, no file, somebody else's, or others may read or write it"""
    if stat.S_ISLNK(found.st_mode):
        raise StoreError(f"{path} is a symlink: name the file itself, and remove the link if you did not make it")
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path} is not a regular file: remove it, or name another file for the store")
    if sys.platform == "win32":
        return
    if found.st_uid != os.geteuid():
        raise StoreError(
            f"{path} belongs to user {found.st_uid}, and this is run by user {os.geteuid()}: run it as that user,"
            f" or give the file to this one (chown {os.geteuid()} '{path}') if you know where it comes from"
        )
    if found.st_mode & 0o077:
        raise StoreError(
            f"{path} can be read or written by others (mode {stat.S_IMODE(found.st_mode):04o}): run chmod 600 '{path}';"
            " if others could read it, make new keys: remove the store and let the client join again"
        )


def _unopenable(path: Path, error: OSError) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"no space left for {path}: {MAKE_SPACE}")
    remedy = {errno.EROFS: MAY_WRITE, errno.EACCES: MAY_WRITE, errno.EPERM: MAY_WRITE, errno.ENOENT: _MAKE_FOLDER}
    text = f"cannot open the store {path}: {error.strerror}"
    return StoreError(f"{text}; {remedy[error.errno]}" if error.errno in remedy else text)


def first_octets(path: Path) -> bytes:
    """The first octets of a file; empty if the file is."""
    try:
        with path.open("rb") as file:
            return file.read(len(PLAIN))
    except OSError as error:
        raise _unopenable(path, error) from error


def sync_folder(path: Path) -> None:
    """Bring the names in a file's folder to the disk, where the system can."""
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
