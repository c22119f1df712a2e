"""The durable store: one SQLite file, one account.  :mod:`.files` keeps it to one process, and to its owner.

**One step, one transaction.**  ``BEGIN IMMEDIATE`` ... ``COMMIT`` on a write-ahead log with ``synchronous=FULL``: when
the block ends the step has reached the disk, so that a key or nonce whose use was recorded is not used again after a
power cut.  (Steps that are not lasting use ``NORMAL``: the log is in order, so the next lasting step brings them to the
disk.)  A failed statement undoes the whole step even if the caller swallows the exception, because SQLite may have
rolled back already and would run the following statements outside any transaction.

**Deleted means deleted** (RFC 9420 9.2, RFC 9750 8.2.3).  Old copies of a value can survive
in three places:

- in the free space of the database file: ``secure_delete`` overwrites it with zeros;
- in the log, which keeps superseded pages: it is copied into the database and cut to zero
  length at the first commit after `CHECKPOINT_SECONDS`, or once it exceeds
  `CHECKPOINT_BYTES`, and at :meth:`SQLiteStore.close`.  A quiet client thus loses its secrets
  with the commit that deletes them, a busy one some seconds later;
- in the slack of B-tree pages: when SQLite moves rows between pages to balance the tree, the
  bytes left behind between a page's index and its content are *not* covered by
  ``secure_delete`` (measured: a few in ten thousand deleted values stay readable).  Only
  rebuilding the file removes them, which :meth:`SQLiteStore.scrub` does.

The file system or the flash controller may keep copies of overwritten blocks; this module cannot prevent that.

**Encrypted, if wanted.**  With a :class:`~.wrapped_key.StoreSecret` the file and its log are encrypted page by page, by
SQLCipher (the extra ``encrypted``): AES-256-CBC with HMAC-SHA512 over each page and its number, under a random key that
:mod:`.wrapped_key` keeps.  Nothing of the content is readable, neither keys nor names of spaces nor the account; sizes
and times of writing are.  The first octets of a file show whether it is encrypted.

**Format.**  ``application_id`` marks the file as ours, and ``user_version`` is the number of the last entry of
`MIGRATIONS` that has run.  One table holds the values of all spaces.  In a plain file, keys and names of spaces are
readable.
"""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from ..errors import MLSError, StoreError, StoreFull, StoreLocked, StoreMismatch, UsageError, WrongPassphrase
from . import wrapped_key
from .files import MAKE_SPACE, MAY_WRITE, PLAIN, Lock, check_own, first_octets, open_own, resolved, sync_folder
from .interface import Transaction, check_account
from .wrapped_key import StoreSecret

log = logging.getLogger(__name__)

#: "XMLS", in the database's header.
APPLICATION_ID = 0x584D4C53

#: The log is emptied at the first commit that finds it older than this, in seconds ...
CHECKPOINT_SECONDS = 10.0
#: ... or larger than this, in octets.
CHECKPOINT_BYTES = 1 << 20

#: Rows fetched at a time while walking a space: no statement stays open between two of them.
_CHUNK = 64
#: Writes that wait for their turn at most, see `_Step`.
_WAITING = 256

_PUT = "INSERT INTO entry VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
_DELETE = "DELETE FROM entry WHERE space = ? AND key = ?"
_DELETE_FROM = "DELETE FROM entry WHERE space = ? AND key >= ?"
_DELETE_BETWEEN = "DELETE FROM entry WHERE space = ? AND key >= ? AND key < ?"


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
    connection.execute(
        "CREATE TABLE entry (space TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (space, key))"
        " WITHOUT ROWID"
    )


#: ``MIGRATIONS[n]`` turns a store of version n into one of version n + 1; an empty file is version 0.
#: All that are due run in one transaction.  Never change an entry that was released: add one.
#: (Not with ``executescript``, which commits what went before.)
MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_create,)


class SQLiteStore:
    """A :class:`~slixmpp_mls.store.interface.Store` in one SQLite file, made if missing, mode 0600.

    Belongs to one thread, that of the event loop: use from another raises `UsageError`.  Do not
    ``await`` inside a transaction; another task could not begin its own.

    :param path: the file; beside it live ``<path>-wal``, ``<path>.lock`` and, if encrypted, ``<path>.wrapped-key``
    :param account: bare JID in normal form (RFC 7622); the first open binds the file to it.  None: any account
    :param secret: opens an encrypted store; a new file is encrypted under it
    :raises WrongPassphrase: it is encrypted under another secret
    :raises StoreLocked: another process, or another object of this one, has the store open
    :raises StoreMismatch: the file belongs to another account, to a newer version, belongs to another program,
        or is not encrypted although a secret is given
    :raises StoreFull: no space left for making or migrating it
    :raises StoreError: it cannot be opened, is damaged, or is not for its owner only; the text says what to do
    :raises UsageError: a secret is given, and the extra ``encrypted`` is not installed
    """

    def __init__(self, path: str | os.PathLike[str], account: str | None, *, secret: StoreSecret | None = None) -> None:
        if os.fspath(path) in ("", ":memory:"):
            raise UsageError("SQLiteStore needs a file; use MemoryStore for a store without one")
        if account is not None:
            check_account(account)
        self._path = resolved(path)
        self._account = account
        self._driver: Any = sqlite3 if secret is None else _sqlcipher()
        self._step: _Step | None = None
        self._connection: sqlite3.Connection | None = None
        self._checkpointed = -math.inf  # a crash may have left a log
        self._lasting = True
        self._lock = Lock(self._path)
        try:
            self._open(secret)
        except BaseException:
            if self._connection is not None:
                self._connection.close()
            self._lock.release()
            raise

    @property
    def account(self) -> str:
        """The bare JID that the store belongs to."""
        assert self._account is not None  # since it was opened
        return self._account

    @property
    def encrypted(self) -> bool:
        """Whether it is."""
        return self._driver is not sqlite3

    @contextmanager
    def transaction(self, *, lasting: bool = True) -> Iterator[Transaction]:
        """One atomic step: durable when the block ends, undone if it raises.

        :param lasting: False: a power cut, but no kill, may undo it, with all that follows it
        :raises UsageError: inside another transaction, on a closed store, or in another thread
        :raises StoreFull: no space left; nothing was written
        :raises StoreError: any other failure; nothing was written
        """
        connection = self._idle_connection()
        step = self._step = _Step(self._execute, self._execute_many)
        try:
            if lasting != self._lasting:
                self._execute(f"PRAGMA synchronous = {'FULL' if lasting else 'NORMAL'}")
                self._lasting = lasting
            self._execute("BEGIN IMMEDIATE")
            yield step
            step.finish()
            self._execute("COMMIT")
        except BaseException:
            # SQLite rolls some failures back itself.  A failure here comes back at the next BEGIN.
            with suppress(self._driver.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            raise
        finally:
            step.end()
            self._step = None
        self._checkpoint_if_due()

    def scrub(self) -> None:
        """Rebuild the file, so that no file of the store contains a value that was deleted or replaced before.

        Takes time, memory and disk space in proportion to the store's size (about 10 ms per
        megabyte): call it after deleting an epoch's secrets, or every hour, not for every message.

        :raises UsageError: inside a transaction, or on a closed store
        :raises StoreFull: no space for the copy; nothing is lost, old secrets may still be there
        :raises StoreError: likewise for any other failure
        """
        self._idle_connection()
        self._checkpoint()  # first, so that superseded pages are deleted even if the disk has no space to rebuild
        try:
            self._execute("VACUUM")
        finally:
            self._checkpoint()

    def close(self) -> None:
        """Empty the log, release the file and its lock.  Idempotent.

        Any thread may do it once nobody uses the store: a thread that has ended cannot.

        :raises UsageError: inside a transaction
        """
        if self._connection is not None:
            self._thread = threading.get_ident()
            self._disconnect()
        self._lock.release()

    def _disconnect(self) -> None:
        connection = self._idle_connection()
        try:
            self._checkpoint()
        except StoreError as error:  # every step is on the disk already; the next open copies it
            log.warning("could not empty the log of the store: %s", error)
        try:
            connection.close()
        except self._driver.Error as error:
            raise self._translated(error) from error
        self._connection = None

    def give_way(self, successor: Path) -> None:
        """Replace our file by another one under our lock, overwrite the old one, and close.

        :param successor: a closed store in the same folder
        :raises UsageError: inside a transaction, or on a closed store
        :raises StoreError: it failed; our file is still there
        """
        self._idle_connection()
        self._disconnect()
        try:
            with self._path.open("r+b", buffering=0) as old:
                os.replace(successor, self._path)
                sync_folder(self._path)
                for _ in range(0, os.fstat(old.fileno()).st_size, 1 << 20):
                    old.write(bytes(1 << 20))  # the file has no name any more: its contents must be deleted, too
                os.fsync(old.fileno())
        except OSError as error:
            raise StoreError(f"cannot replace {self._path}: {error.strerror}") from error
        finally:
            self.close()

    def check(self) -> list[str]:
        """The file's defects; empty if it has none.  Takes time in proportion to its size.

        :raises UsageError: inside a transaction, or on a closed store
        """
        self._idle_connection()
        found = [str(row[0]) for row in self._execute("PRAGMA integrity_check") if row[0] != "ok"]
        if self.encrypted:  # every page's HMAC
            found += [str(row[0]) for row in self._execute("PRAGMA cipher_integrity_check")]
        return found

    # -- opening ----------------------------------------------------------------------------------

    def _open(self, secret: StoreSecret | None) -> None:
        # SQLite would make the file readable for everybody; what it makes beside it inherits its mode.
        os.close(open_own(self._path))
        self._check_files()
        key = self._key(secret)
        try:
            self._connection = self._driver.connect(
                self._path, timeout=1.0, isolation_level=None, cached_statements=32, check_same_thread=False
            )
            self._thread = threading.get_ident()
            if key is not None:
                self._execute("PRAGMA cipher_log_level = NONE")  # errors are raised, not printed
                self._execute(f"PRAGMA key = \"x'{key.hex()}'\"")
        except self._driver.Error as error:
            raise self._translated(error) from error
        self._execute("PRAGMA locking_mode = EXCLUSIVE")
        version = self._recognise()
        self._configure()
        self._check_files()  # once more: they are open now
        with self.transaction():
            self._migrate(version)
            self._bind(new=version == 0)

    def _check_files(self) -> None:
        for beside in ("", "-wal", "-shm", "-journal"):
            with suppress(FileNotFoundError):
                check_own(Path(f"{self._path}{beside}"), os.lstat(f"{self._path}{beside}"))
        with suppress(FileNotFoundError):
            wrapped = wrapped_key.place(self._path)
            check_own(wrapped, os.lstat(wrapped))

    def _key(self, secret: StoreSecret | None) -> bytes | None:
        """The key of the file, None if it is not encrypted; a file that is still empty gets one."""
        wrapped = wrapped_key.place(self._path)
        head = first_octets(self._path)
        if secret is None:
            if is_encrypted(self._path):
                raise WrongPassphrase(f"{self._path} is encrypted: it needs its passphrase or key file")
            return None
        if head == PLAIN:
            raise StoreMismatch(f"{self._path} is not encrypted; `slixmpp-mls store encrypt` does it")
        if not head and not wrapped.exists():
            return wrapped_key.wrap_key(wrapped, secret)
        return wrapped_key.open_key(wrapped, secret)

    def _recognise(self) -> int:
        """The file's version, after the check that the file is ours; nothing is written before."""
        owner = self._execute("PRAGMA application_id")[0][0]
        version: int = self._execute("PRAGMA user_version")[0][0]
        empty = self._execute("SELECT count(*) FROM sqlite_master")[0][0] == 0
        if owner != APPLICATION_ID and (owner != 0 or version != 0 or not empty):
            raise StoreMismatch(f"{self._path} is a database of another program")
        if not 0 <= version <= len(MIGRATIONS):
            raise StoreMismatch(
                f"{self._path} was written by a newer release (format {version}, known up to {len(MIGRATIONS)})"
            )
        return version

    def _configure(self) -> None:
        if self._execute("PRAGMA journal_mode = WAL") != [("wal",)]:
            raise StoreError(f"the file system of {self._path} does not support a write-ahead log")
        for setting in (
            "synchronous = FULL",
            "fullfsync = ON",  # macOS: through the drive's cache too
            "checkpoint_fullfsync = ON",
            "secure_delete = ON",
            "cache_spill = OFF",  # pages go to the log once, at the commit; a rolled back secret never does
            "temp_store = MEMORY",  # statement journals and VACUUM's copy hold secrets: never in a temporary file
            "wal_autocheckpoint = 0",  # we do it, with TRUNCATE
        ):
            self._execute(f"PRAGMA {setting}")

    def _migrate(self, version: int) -> None:
        assert self._connection is not None
        if version == len(MIGRATIONS):
            return
        try:
            for migration in MIGRATIONS[version:]:
                migration(self._connection)
        except self._driver.Error as error:
            raise self._translated(error) from error
        self._execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _bind(self, *, new: bool) -> None:
        if new:
            if self._account is None:
                raise StoreError(f"{self._path} is no store yet")
            self._execute("INSERT INTO about VALUES ('account', ?)", self._account)
        owner = self._execute("SELECT value FROM about WHERE name = 'account'")
        if not owner:
            raise StoreError(f"{self._path} is damaged: it names no account")
        self._account = self._account or owner[0][0]
        if owner[0][0] != self._account:
            raise StoreMismatch(f"{self._path} belongs to {owner[0][0]}, not to {self._account}")

    # -- running ----------------------------------------------------------------------------------

    def _idle_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise UsageError("the store is closed")
        if self._step is not None:
            raise UsageError("a transaction of this store is open; they do not nest")
        return self._connection

    def _execute(self, sql: str, *values: str | bytes | int) -> list[Any]:
        """Run one statement to its end and return its rows."""
        assert self._connection is not None
        if threading.get_ident() != self._thread:
            raise UsageError("a store is used in the thread that has opened it")
        try:
            return self._connection.execute(sql, values).fetchall()
        except self._driver.Error as error:
            raise self._translated(error) from error

    def _execute_many(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run one statement for each of these rows of values."""
        assert self._connection is not None
        if threading.get_ident() != self._thread:
            raise UsageError("a store is used in the thread that has opened it")
        try:
            self._connection.executemany(sql, rows)
        except self._driver.Error as error:
            raise self._translated(error) from error

    def _checkpoint_if_due(self) -> None:
        if time.monotonic() - self._checkpointed < CHECKPOINT_SECONDS:
            with suppress(FileNotFoundError):
                if os.stat(f"{self._path}-wal").st_size < CHECKPOINT_BYTES:
                    return
        try:
            self._checkpoint()
        except StoreError as error:  # the step itself is on the disk: not the caller's failure
            log.warning("could not empty the log of the store, will try again: %s", error)

    def _checkpoint(self) -> None:
        self._checkpointed = time.monotonic()
        busy = self._execute("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]
        if busy:
            raise StoreLocked(f"another program is reading {self._path}: stop it, or wait until it is done")

    def _translated(self, error: Exception) -> MLSError:
        """Our exception for one of SQLite's.  Its texts name tables and files, never values."""
        code = getattr(error, "sqlite_errorcode", None)
        match code if code is None else code & 0xFF:
            case None if isinstance(error, self._driver.ProgrammingError):
                return UsageError(f"wrong use of the store: {error}")
            case sqlite3.SQLITE_FULL:
                return StoreFull(f"no space left for {self._path}: {MAKE_SPACE}")
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return StoreLocked(f"another program has {self._path} open: stop it, or use another store")
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                return StoreError(f"{self._path} is damaged, or no store at all: {error}")
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
                return StoreError(f"cannot write to {self._path}: {error}; {MAY_WRITE}")
            case sqlite3.SQLITE_IOERR:
                name = getattr(error, "sqlite_errorname", "no code")
                return StoreError(
                    f"the disk of {self._path} fails or has no space left: {error} ({name}); {MAKE_SPACE}"
                )
            case _:
                return StoreError(f"{self._path}: {error} ({getattr(error, 'sqlite_errorname', 'no code')})")


class _Step:
    """One open transaction; unusable after its end.

    Writes wait until something is read, or the step ends.  Then those of one kind are one call of SQLite's: a Commit
    writes some fifty entries, and most of their time would go into calls.
    """

    def __init__(
        self, execute: Callable[..., list[Any]], execute_many: Callable[[str, Iterable[tuple[Any, ...]]], None]
    ) -> None:
        self._run = execute
        self._run_many = execute_many
        self._failure: MLSError | None = None
        self._changes = 0
        self._waiting: list[tuple[str, tuple[Any, ...]]] = []  # statements and their values, in order

    def check(self) -> None:
        """Raise the error that undid this step."""
        if self._failure is not None:
            raise self._failure

    def finish(self) -> None:
        """Write what waits.

        :raises StoreError: it failed, or a statement before
        """
        self.check()
        self._flush()

    def end(self) -> None:
        self._failure = UsageError("this transaction has ended")
        self._waiting.clear()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            for sql, writes in groupby(waiting, key=itemgetter(0)):
                self._run_many(sql, [values for _, values in writes])
        except MLSError as error:
            self._failure = error
            raise

    def _read(self, sql: str, *values: str | bytes) -> list[Any]:
        """The rows of a query, which sees all that was written before."""
        self.check()
        if self._waiting:
            self._flush()
        try:
            return self._run(sql, *values)
        except MLSError as error:
            self._failure = error
            raise

    def _write(self, sql: str, *values: str | bytes) -> None:
        if self._failure is not None:
            raise self._failure
        self._changes += 1
        self._waiting.append((sql, values))
        if len(self._waiting) == _WAITING:
            self._flush()

    def get(self, space: str, key: bytes) -> bytes | None:
        rows = self._read("SELECT value FROM entry WHERE space = ? AND key = ?", space, key)
        return rows[0][0] if rows else None

    def put(self, space: str, key: bytes, value: bytes) -> None:
        self._write(_PUT, space, key, value)

    def delete(self, space: str, key: bytes) -> None:
        self._write(_DELETE, space, key)

    def delete_prefix(self, space: str, prefix: bytes = b"") -> None:
        end = _beyond(prefix)
        if end is None:
            self._write(_DELETE_FROM, space, prefix)
        else:
            self._write(_DELETE_BETWEEN, space, prefix, end)

    def items(self, space: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        end = _beyond(prefix)
        start, compare = prefix, ">="
        while True:
            sql = f"SELECT key, value FROM entry WHERE space = ? AND key {compare} ?"  # noqa: S608 (two constants)
            if end is None:
                rows = self._read(f"{sql} ORDER BY key LIMIT {_CHUNK}", space, start)
            else:
                rows = self._read(f"{sql} AND key < ? ORDER BY key LIMIT {_CHUNK}", space, start, end)
            seen = self._changes
            for row in rows:
                yield row
                self.check()
                start, compare = row[0], ">"
                if self._changes != seen:  # written to meanwhile: the rest of the chunk may be stale
                    break
            else:
                if len(rows) < _CHUNK:
                    return

    def spaces(self, prefix: str = "") -> Iterator[str]:
        # One index look-up per space, however many entries it has.
        rows = self._read("SELECT space FROM entry WHERE space >= ? ORDER BY space LIMIT 1", prefix)
        while rows and rows[0][0].startswith(prefix):
            yield rows[0][0]
            rows = self._read("SELECT space FROM entry WHERE space > ? ORDER BY space LIMIT 1", rows[0][0])


def is_encrypted(path: str | os.PathLike[str]) -> bool:
    """Whether a file is an encrypted store: it has a key beside it, and does not begin as what is not encrypted does.

    :raises StoreError: it cannot be read
    """
    file = resolved(path)
    return file.exists() and wrapped_key.place(file).exists() and first_octets(file) not in (b"", PLAIN)


def _sqlcipher() -> Any:
    """The driver for encrypted files: it has the interface of :mod:`sqlite3`, and exceptions of its own."""
    try:
        from sqlcipher3 import dbapi2
    except ImportError:
        raise UsageError("an encrypted store needs SQLCipher: pip install 'slixmpp-mls[encrypted]'") from None
    return dbapi2


def _beyond(prefix: bytes) -> bytes | None:
    """The least octet string above all that start with `prefix`; None if there is none."""
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else None
