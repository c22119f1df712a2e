"""What a killed process, a full disk and a failing one leave: each step whole or not at all."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from slixmpp_mls.errors import StoreError, StoreFull
from slixmpp_mls.store import SQLiteStore, Transaction

from ..programs import STORE_ALONE
from ..small_disk import small_disk
from .test_store import ALICE, content, step

if sys.platform != "win32":
    import resource
    import signal

ROWS = 16_000  # of 500 octets: more than the small disks of these tests hold


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "alice.db"


# -- killed -----------------------------------------------------------------------------------------

#: Each step replaces what the one before wrote: so many rows that a half of them would show.  It says so when it
#: is done, and empties the log, rebuilds the file and closes it every now and then.
WRITER = """
import sys
from slixmpp_mls.store import SQLiteStore, sqlite
sqlite.CHECKPOINT_SECONDS = 0.02
store = SQLiteStore(sys.argv[1], "alice@wonderland.example")
with store.transaction() as t:
    number = int.from_bytes(t.get("client", b"number") or b"", "big")
while True:
    number += 1
    mark = number.to_bytes(4, "big")
    with store.transaction() as t:
        t.delete_prefix("rows")
        t.put("client", b"number", mark)
        for n in range(number % 40):
            t.put("rows", mark + bytes([n]), mark * (n * 7 + 1))
    print(number, flush=True)
    if number % 23 == 0:
        store.scrub()
    if number % 29 == 0:
        store.close()
        store = SQLiteStore(sys.argv[1], "alice@wonderland.example")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_step_acknowledged_before_sigkill_is_whole_and_no_other_is_half(path: Path) -> None:
    chance = random.Random(7)
    reached = 0
    for _ in range(40):
        writer = subprocess.Popen(
            [sys.executable, "-c", STORE_ALONE + WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        first = writer.stdout.readline()
        assert first == f"{reached + 1}\n"
        time.sleep(chance.uniform(0, 0.1))
        writer.send_signal(signal.SIGKILL)
        acknowledged = int([first, *writer.stdout][-1].strip() or 0)
        writer.wait()
        store = SQLiteStore(path, ALICE)
        found = content(store)
        store.close()
        mark = found.pop(("client", b"number"))
        reached = int.from_bytes(mark, "big")
        assert acknowledged <= reached <= acknowledged + 1
        assert found == {("rows", mark + bytes([n])): mark * (n * 7 + 1) for n in range(reached % 40)}
    assert reached > 40  # not every one was killed at its first step


# -- a disk that is full or broken ------------------------------------------------------------------


def fill(t: Transaction) -> None:
    t.put("client", b"state", b"new")
    for n in range(ROWS):
        t.put("bulk", n.to_bytes(4, "big"), bytes(500))


def check_full(store: SQLiteStore, kind: type[StoreError], make_room: Callable[[], object]) -> None:
    """A step for which there is no space fails whole; the store reads on, and writes again when there is."""
    with pytest.raises(kind):
        step(store, fill)
    assert content(store) == {("client", b"state"): b"old"}

    def carry_on(t: Transaction) -> None:
        with suppress(StoreError):
            fill(t)

    with pytest.raises(kind):  # a caller that swallows the failure must not get the first half written
        step(store, carry_on)
    assert content(store) == {("client", b"state"): b"old"}
    make_room()
    step(store, fill)
    assert len(content(store)) == ROWS + 1
    store.close()


def opened(path: Path) -> SQLiteStore:
    store = SQLiteStore(path, ALICE)
    with store.transaction() as t:
        t.put("client", b"state", b"old")
    return store


def test_a_database_at_its_limit_is_full(path: Path) -> None:
    store = opened(path)
    store._execute("PRAGMA max_page_count = 200")
    check_full(store, StoreFull, lambda: store._execute("PRAGMA max_page_count = 100000"))


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_refused_write_is_a_store_error(path: Path) -> None:
    """RLIMIT_FSIZE: the kernel refuses to let the log grow, which SQLite reports as an input/output error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = opened(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        check_full(store, StoreError, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


ON_SMALL_DISK = """
import sys
from pathlib import Path
from tests.store.test_crash import check_full, opened
from slixmpp_mls.errors import StoreFull
from slixmpp_mls.store import SQLiteStore
import pytest
disk = Path(sys.argv[1])
ballast = disk / "ballast"

def leave(octets):
    with ballast.open("wb", buffering=0) as file:
        with pytest.raises(OSError):
            while True:
                if file.write(bytes(4096)) < 4096:
                    raise OSError
        file.truncate(file.tell() // 4096 * 4096 - octets)

leave(4 << 20)
check_full(opened(disk / "alice.db"), StoreFull, ballast.unlink)

store = SQLiteStore(disk / "alice.db", "alice@wonderland.example")
leave(4 << 20)
with pytest.raises(StoreFull):
    store.scrub()
ballast.unlink()
store.scrub()
store.close()

leave(0)
with pytest.raises(StoreFull):
    SQLiteStore(disk / "bob.db", "bob@wonderland.example")
ballast.unlink()
SQLiteStore(disk / "bob.db", "bob@wonderland.example").close()
print("done")
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", ON_SMALL_DISK, disk],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **small_disk(disk, 48 << 20)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_an_error_names_the_file_and_no_value(path: Path) -> None:
    store = opened(path)
    store._execute("PRAGMA max_page_count = 20")
    with pytest.raises(StoreFull, match=r"alice\.db") as caught:
        step(store, lambda t: t.put("client", b"k", b"plaintext" * 100_000))
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "plaintext" not in repr(chain)
        chain = chain.__cause__
    store.close()
