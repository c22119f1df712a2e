"""The store of one running client: one that the application has given, or a file that the client opens and closes.

One client at a time has a file open (:mod:`slixmpp_mls.store.files`).  A program may send several things, each in an
:func:`asyncio.run` of its own, with a new client each time, and close nothing.  A client whose event loop has ended can
do nothing any more, so a later client of the same process takes its file over.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from weakref import WeakValueDictionary

from ..errors import UsageError
from ..store import SQLiteStore, Store, store_secret
from .settings import Settings

__all__ = ["ClientStore"]

log = logging.getLogger(__name__)

_holders: WeakValueDictionary[str, ClientStore] = WeakValueDictionary()  # that have opened a file, by its path


class ClientStore:
    """The store of one client, from its first session to its end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: Store | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, account: str) -> Store:
        """The store, opened if it is not yet.

        :param account: bare JID
        :raises UsageError: the store belongs to another account
        :raises StoreError: the store cannot be used
        """
        given = self._settings.store
        if self._store is None:
            if isinstance(given, str | Path):
                path = str(Path(given).resolve())
                self._take_over(path)
                secret = store_secret(self._settings.passphrase, self._settings.key_file)
                self._store = SQLiteStore(given, account, secret=secret)
                self._loop = asyncio.get_running_loop()
                _holders[path] = self  # not before: a client that was refused holds nothing
            else:
                self._store = given
        if self._store.account != account:
            raise UsageError(f"the store belongs to {self._store.account}, not to {account}")
        return self._store

    def _take_over(self, path: str) -> None:
        """Close the file if a client of this process has left it open whose event loop has ended."""
        before = _holders.get(path)
        if before is not None and before is not self and before._loop is not None and before._loop.is_closed():
            log.info("the store %s is taken over from a client whose event loop has ended", path)
            store, before._store = before._store, None
            if store is not None:
                store.close()

    def close(self) -> None:
        """Close a file that we have opened; a store that the application has given stays open."""
        if self._store is not None and self._store is not self._settings.store:
            self._store.close()
        self._store = None
