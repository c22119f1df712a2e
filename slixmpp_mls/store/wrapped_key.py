"""The key of an encrypted store, kept beside it under a passphrase or a key file.

::

    passphrase or key file ── Argon2id, salt ──► wrapping key ── AES-256-GCM ──► key of the database

The database is encrypted under 32 random octets that never change.  They lie in ``<store>.wrapped-key``, encrypted
under a key derived from the secret that people hold, so that another passphrase costs the rewriting of this
small file alone, and the derivation, slow by intention, happens once, when the store is opened.

Argon2id (RFC 9106, the second recommended option: 64 MiB, three passes) makes each guess cost memory and time.
Its parameters are in the file; they are bounded when read, because anyone able to write the file could otherwise make
the opening take all memory.  All that the file says is authenticated by AES-GCM with the wrapped key.

The file is replaced, never changed in place: whenever the process or the machine stops, either the old
secret opens the store or the new one.  It holds nothing about whose store it is.  Without it nobody can read the
store any more, so it belongs in every backup.
"""

from __future__ import annotations

import base64
import json
import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from ..errors import StoreError, UsageError, WrongPassphrase
from .files import sync_folder

__all__ = ["StoreSecret", "open_key", "place", "store_secret", "wrap_key"]

_FORMAT = "slixmpp-mls wrapped key 1"
_KEY = 32
_SALT = 16
_NONCE = 12
_TAG = 16
_MAX_FILE = 4096  # octets

_MEMORY = 64 * 1024  # KiB
_PASSES = 3
_LANES = 4
# The bounds for a file's parameters; files of other releases, with other defaults, must stay readable.
_BOUNDS = {"memory": (8 * 1024, 1024 * 1024), "passes": (1, 48), "lanes": (1, 16)}

_MIN_KEY_FILE = 32  # octets
_MAX_KEY_FILE = 64 * 1024


@dataclass(frozen=True, slots=True)
class StoreSecret:
    """What opens an encrypted store: a passphrase, or the content of a key file."""

    octets: bytes = field(repr=False)

    @classmethod
    def of_passphrase(cls, text: str) -> Self:
        """A passphrase, in the normal form NFC: the same on every keyboard.

        :raises UsageError: it is empty
        """
        if not text:
            raise UsageError("an empty passphrase")
        return cls(b"passphrase\0" + unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass"))

    @classmethod
    def of_key_file(cls, path: str | os.PathLike[str]) -> Self:
        """The whole content of a file of 32 octets to 64 KiB, such as ``openssl rand -out bot.key 32`` makes.

        :raises UsageError: it cannot be read, or is no such file
        """
        try:
            with open(path, "rb") as file:
                octets = file.read(_MAX_KEY_FILE + 1)
        except OSError as error:
            raise UsageError(f"cannot read the key file {path}: {error.strerror}") from error
        if not _MIN_KEY_FILE <= len(octets) <= _MAX_KEY_FILE:
            raise UsageError(f"the key file {path} must have {_MIN_KEY_FILE} to {_MAX_KEY_FILE} octets")
        return cls(b"key file\0" + octets)


def store_secret(
    passphrase: str | StoreSecret | Callable[[], str] | None, key_file: str | os.PathLike[str] | None
) -> StoreSecret | None:
    """The secret that a configuration names; None if the store is not to be encrypted.

    :raises UsageError: it says both, or the key file or passphrase is none
    """
    if key_file is not None:
        if passphrase is not None:
            raise UsageError("a passphrase or a key file, not both")
        return StoreSecret.of_key_file(key_file)
    if passphrase is None or isinstance(passphrase, StoreSecret):
        return passphrase
    return StoreSecret.of_passphrase(passphrase if isinstance(passphrase, str) else passphrase())


def place(store: Path) -> Path:
    """Where the wrapped key of a store is."""
    return store.with_name(f"{store.name}.wrapped-key")


def wrap_key(path: Path, secret: StoreSecret, key: bytes | None = None) -> bytes:
    """Write a key file for a secret, in place of the one that is there.

    :param path: of the wrapped key
    :param key: the key; a new one if not given
    :returns: the key
    :raises StoreError: it could not be written; the old file is unchanged
    """
    key = os.urandom(_KEY) if key is None else key
    head: dict[str, Any] = {
        "format": _FORMAT,
        "kdf": "argon2id",
        "memory": _MEMORY,
        "passes": _PASSES,
        "lanes": _LANES,
        "salt": _text(os.urandom(_SALT)),
        "nonce": _text(os.urandom(_NONCE)),
    }
    sealed = AESGCM(_derive(secret, head)).encrypt(_octets(head, "nonce", _NONCE), key, _bound(head))
    content = json.dumps({**head, "key": _text(sealed)}, indent=1).encode() + b"\n"
    beside = path.with_name(f"{path.name}.new")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
    return key


def open_key(path: Path, secret: StoreSecret) -> bytes:
    """The key of a store.

    :param path: of the wrapped key
    :raises WrongPassphrase: not by this secret
    :raises StoreError: the file is missing or damaged
    """
    head = _read(path)
    sealed = _octets(head, "key", _KEY + _TAG)
    del head["key"]
    try:
        return AESGCM(_derive(secret, head)).decrypt(_octets(head, "nonce", _NONCE), sealed, _bound(head))
    except InvalidTag:
        raise WrongPassphrase(f"the passphrase or key file does not open {path.name}") from None


def _derive(secret: StoreSecret, head: dict[str, Any]) -> bytes:
    try:
        function = Argon2id(
            salt=_octets(head, "salt", _SALT),
            length=_KEY,
            iterations=head["passes"],
            lanes=head["lanes"],
            memory_cost=head["memory"],
        )
    except UnsupportedAlgorithm as error:
        raise StoreError("this build of cryptography lacks Argon2id: it needs OpenSSL 3.2 or later") from error
    return function.derive(secret.octets)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except FileNotFoundError:
        raise StoreError(f"{path} is missing: without it the store cannot be opened") from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    try:
        if len(content) > _MAX_FILE:
            raise ValueError("too large")
        head = json.loads(content)
        if not isinstance(head, dict) or (head.get("format"), head.get("kdf")) != (_FORMAT, "argon2id"):
            raise ValueError("not of this format")
        for name, (least, most) in _BOUNDS.items():
            value = head.get(name)
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{name} out of bounds")
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is damaged: {error}") from None
    return head


def _bound(head: dict[str, Any]) -> bytes:
    """The additional data that AES-GCM authenticates with the key."""
    return json.dumps(head, sort_keys=True, separators=(",", ":")).encode()


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _octets(head: dict[str, Any], name: str, length: int) -> bytes:
    try:
        octets = base64.b64decode(head[name], validate=True)
    except (KeyError, TypeError, ValueError):
        octets = b""
    if len(octets) != length:
        raise StoreError(f"the wrapped key is damaged: no proper {name}")
    return octets
