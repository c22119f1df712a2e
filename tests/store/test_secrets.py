"""What was deleted from the store cannot be read in its files any more (RFC 9420 9.2, RFC 9750 8.2.3)."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from slixmpp_mls.errors import UsageError
from slixmpp_mls.store import SQLiteStore, Transaction, sqlite

from ..programs import STORE_ALONE
from .test_store import ALICE, content, step


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "alice.db"


def raw(path: Path) -> bytes:
    """Everything that the folder of the store holds on the disk."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.iterdir()))


MARK = b"<secret>"


@pytest.mark.parametrize("seed", range(4))
def test_scrub_leaves_no_deleted_or_replaced_secret_in_any_file(path: Path, seed: int) -> None:
    """RFC 9420 9.2, RFC 9750 8.2.3.  The mixture is one where secure_delete alone leaves some behind."""
    chance = random.Random(seed)
    store = SQLiteStore(path, ALICE)
    alive: dict[bytes, bytes] = {}
    dead: list[bytes] = []

    def put(t: Transaction, key: bytes) -> None:
        if key in alive:
            dead.append(alive[key])
        alive[key] = (MARK + chance.randbytes(8)) * chance.choice([1, 2, 5, 20, 300])
        t.put("secrets", key, alive[key])

    for round_ in range(3):
        for _ in range(500):
            with store.transaction() as t:
                for _ in range(10):
                    what = chance.random()
                    if what < 0.5 or len(alive) < 20:
                        put(t, chance.randbytes(chance.choice([4, 8, 32])))
                    elif what < 0.9:
                        key = next(iter(alive))
                        dead.append(alive.pop(key))
                        t.delete("secrets", key)
                    else:
                        put(t, next(iter(alive)))
        if round_ == 1:
            with store.transaction() as t:
                t.delete_prefix("secrets", b"\x00")
            for key in [key for key in alive if key.startswith(b"\x00")]:
                dead.append(alive.pop(key))
        store.scrub()
        found = set(re.findall(MARK + b".{8}", raw(path), re.DOTALL))
        assert found == {secret[:16] for secret in alive.values()}
        assert len(dead) > 1000
    assert content(store) == {("secrets", key): value for key, value in alive.items()}
    store.close()


def test_without_scrub_the_log_keeps_secrets_only_until_it_is_due(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(deleted: bytes, added: bytes) -> bytes:
        secret = os.urandom(32)
        with store.transaction() as t:
            t.delete("client", deleted)
            t.put("client", added, secret)
        return secret

    store = SQLiteStore(path, ALICE)
    first = replace(b"", b"1")
    replace(b"1", b"2")
    assert first in raw(path)  # in the log: what this test is about
    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", 1)
    second = replace(b"2", b"3")
    assert first not in raw(path)
    monkeypatch.undo()
    replace(b"3", b"4")
    assert second in raw(path)
    monkeypatch.setattr(sqlite, "CHECKPOINT_SECONDS", 0.0)
    replace(b"4", b"5")
    assert second not in raw(path)
    monkeypatch.undo()
    fifth = replace(b"5", b"6")
    replace(b"6", b"7")
    assert fifth in raw(path)
    store.close()
    assert fifth not in raw(path)


def test_a_rolled_back_secret_never_reaches_the_disk(path: Path) -> None:
    """Not even from a transaction larger than SQLite's cache, which by default spills into the log."""
    store = SQLiteStore(path, ALICE)
    secret = os.urandom(32)

    def work(t: Transaction) -> None:
        for n in range(3000):
            t.put("client", n.to_bytes(2, "big"), secret * 100)
        assert secret not in raw(path)
        raise LookupError

    with pytest.raises(LookupError):
        step(store, work)
    assert secret not in raw(path)
    store.close()


CRASHING = """
import os, sys
from slixmpp_mls.store import SQLiteStore
store = SQLiteStore(sys.argv[1], "alice@wonderland.example")
with store.transaction() as t:
    t.put("client", b"k", b"secret" * 9)
with store.transaction() as t:
    t.delete("client", b"k")
os._exit(1)
"""


def test_the_log_of_a_crashed_process_is_emptied_at_the_next_open(path: Path) -> None:
    subprocess.run([sys.executable, "-c", STORE_ALONE + CRASHING, str(path)], check=False)
    assert b"secret" * 9 in raw(path)
    store = SQLiteStore(path, ALICE)
    assert content(store) == {}
    assert b"secret" * 9 not in raw(path)
    store.close()


def test_scrub_inside_a_transaction_is_refused(path: Path) -> None:
    store = SQLiteStore(path, ALICE)
    with store.transaction(), pytest.raises(UsageError):
        store.scrub()
    store.close()
