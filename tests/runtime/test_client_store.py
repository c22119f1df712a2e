"""The store of a client: given or opened, closed by whoever opened it, and left to a later client of the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from slixmpp_mls.errors import StoreLocked, UsageError
from slixmpp_mls.runtime import Settings
from slixmpp_mls.runtime.client_store import ClientStore
from slixmpp_mls.store import MemoryStore, Store
from tests.conftest import in_own_loop

ACCOUNT = "bot@example.org"


def of_file(path: Path) -> ClientStore:
    return ClientStore(Settings(store=str(path)))


def opened_in_a_loop_of_its_own(path: Path) -> tuple[ClientStore, Store]:
    """A client's store, which is open; the loop has ended."""
    client, stores = of_file(path), []

    async def life() -> None:
        stores.append(client.open(ACCOUNT))

    in_own_loop(life())
    return client, stores[0]


def write(store: Store) -> None:
    with store.transaction() as transaction:
        transaction.put("space", b"key", b"value")


async def test_a_given_store_stays_open() -> None:
    given = MemoryStore(ACCOUNT)
    client = ClientStore(Settings(store=given))
    assert client.open(ACCOUNT) is given
    client.close()
    write(given)


async def test_a_file_is_opened_once_and_closed(tmp_path: Path) -> None:
    client = of_file(tmp_path / "bot.db")
    store = client.open(ACCOUNT)
    assert client.open(ACCOUNT) is store
    client.close()
    client.close()
    with pytest.raises(UsageError, match="closed"):
        write(store)
    again = of_file(tmp_path / "bot.db")
    write(again.open(ACCOUNT))
    again.close()


async def test_a_store_of_another_account_is_refused() -> None:
    client = ClientStore(Settings(store=MemoryStore(ACCOUNT)))
    with pytest.raises(UsageError, match=r"belongs to bot@example\.org, not to eve@example\.org"):
        client.open("eve@example.org")


def test_a_client_whose_loop_has_ended_leaves_its_file_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    before, left_open = opened_in_a_loop_of_its_own(path)
    after, store = opened_in_a_loop_of_its_own(path)
    with pytest.raises(UsageError, match="closed"):
        write(left_open)
    before.close()  # it has nothing to close any more
    assert_open(store)
    after.close()


def assert_open(store: Store) -> None:
    """Write in a thread that is not the store's: refused, and so it is open."""
    with pytest.raises(UsageError, match="thread that has opened it"):
        write(store)


async def test_a_client_whose_loop_runs_keeps_its_file(tmp_path: Path) -> None:
    first = of_file(tmp_path / "bot.db")
    store = first.open(ACCOUNT)
    with pytest.raises(StoreLocked):
        of_file(tmp_path / "bot.db").open(ACCOUNT)
    with pytest.raises(StoreLocked):  # one that was refused holds nothing that the next could take
        of_file(tmp_path / "bot.db").open(ACCOUNT)
    assert store.account == ACCOUNT
    first.close()
