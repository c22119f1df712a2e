"""Encrypts and decrypts an existing store, and changes its passphrase.

Conversion copies the store, in one transaction, into a second file in the same folder, which then replaces it under its
lock.  The file itself shows whether it is encrypted, so the conversion takes effect at one moment, the renaming.  If it
is interrupted at any point, the store is complete, in one form or the other, and the same call can be repeated.

The old file's blocks are overwritten once.  A solid-state disk or a snapshot may still keep a copy; this module cannot
prevent that.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ..errors import StoreError, UsageError, WrongPassphrase
from . import wrapped_key
from .copying import copy_all
from .files import sync_folder
from .sqlite import SQLiteStore
from .wrapped_key import StoreSecret

__all__ = ["change_secret", "decrypt", "encrypt"]


def encrypt(path: str | os.PathLike[str], secret: StoreSecret) -> None:
    """Encrypt a plain store.

    :raises StoreLocked: a program has it open
    :raises StoreMismatch: it is no store, or of a newer version
    :raises StoreError: it failed; the store is as it was
    :raises UsageError: no such file, it is encrypted already, or the extra ``encrypted`` is not installed
    """
    file = _existing(path)
    try:
        opened = _Opened(file, None)
    except WrongPassphrase:
        raise UsageError(f"{path} is encrypted already") from None
    with opened as source:
        _convert(file, source, secret)


def decrypt(path: str | os.PathLike[str], secret: StoreSecret) -> None:
    """Turn an encrypted store into a plain one, which anyone with access to the file can read.

    :raises StoreMismatch: it is not encrypted
    :raises WrongPassphrase: not by this secret
    :raises StoreError: see :func:`encrypt`
    """
    file = _existing(path)
    with _Opened(file, secret) as source:
        _convert(file, source, None)
    with suppress(FileNotFoundError):
        wrapped_key.place(file).unlink()


def change_secret(path: str | os.PathLike[str], old: StoreSecret, new: StoreSecret) -> None:
    """Set another passphrase or key file for an encrypted store; the database stays as it is.

    The old passphrase *and* a copy of the old ``.wrapped-key`` file still open the store.  If that is a risk,
    :func:`decrypt` and :func:`encrypt` give the database another key.

    :raises WrongPassphrase: not by the old secret
    :raises StoreError: see :func:`encrypt`
    """
    file = _existing(path)
    with _Opened(file, old):  # under its lock, and sure that it is this key that is wrapped
        place = wrapped_key.place(file)
        wrapped_key.wrap_key(place, new, wrapped_key.open_key(place, old))


class _Opened:
    """A store that is closed at the end of the block; it closes itself when another file replaces it."""

    def __init__(self, path: Path, secret: StoreSecret | None) -> None:
        self._store = SQLiteStore(path, None, secret=secret)

    def __enter__(self) -> SQLiteStore:
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.close()


def _convert(path: Path, source: SQLiteStore, secret: StoreSecret | None) -> None:
    copy = path.with_name(f"{path.name}.converted")
    _remove(copy)  # of an attempt that was stopped
    try:
        target = SQLiteStore(copy, source.account, secret=secret)
        try:
            copy_all(source, target)
        finally:
            target.close()
        if secret is not None:
            os.replace(wrapped_key.place(copy), wrapped_key.place(path))
            sync_folder(path)
        source.give_way(copy)
    except OSError as error:
        raise StoreError(f"cannot convert {path}: {error.strerror}") from error
    finally:
        _remove(copy)


def _remove(copy: Path) -> None:
    for name in (copy, wrapped_key.place(copy), Path(f"{copy}-wal"), Path(f"{copy}.lock")):
        name.unlink(missing_ok=True)


def _existing(path: str | os.PathLike[str]) -> Path:
    file = Path(os.path.realpath(path))
    if not file.is_file() or not file.stat().st_size:
        raise UsageError(f"no store at {path}")
    return file
