"""The two stores: one contract, and what only the durable one has to keep."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from slixmpp_mls.errors import StoreError, StoreLocked, StoreMismatch, UsageError
from slixmpp_mls.store import MemoryStore, SQLiteStore, Store, Transaction, sqlite

from ..programs import STORE_ALONE

ALICE = "alice@wonderland.example"

type_of_store = pytest.mark.parametrize("store", ["sqlite", "memory"], indirect=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "alice.db"


@pytest.fixture
def store(request: pytest.FixtureRequest, path: Path) -> Iterator[Store]:
    made: Store = MemoryStore(ALICE) if request.param == "memory" else SQLiteStore(path, ALICE)
    yield made
    made.close()


def step(store: Store, work: Callable[[Transaction], object]) -> None:
    with store.transaction() as t:
        work(t)


def content(store: Store) -> dict[tuple[str, bytes], bytes]:
    with store.transaction() as t:
        return {(space, key): value for space in t.spaces() for key, value in t.items(space)}


# -- the contract of both ---------------------------------------------------------------------------


@type_of_store
def test_a_step_is_kept_and_its_reads_see_its_own_writes(store: Store) -> None:
    with store.transaction() as t:
        t.put("client", b"k", b"1")
        t.put("client", b"k", b"2")
        t.put("client", b"", b"")
        assert t.get("client", b"k") == b"2"
        t.delete("client", b"missing")
        assert t.get("client", b"missing") is None
        assert t.get("other", b"k") is None
    assert store.account == ALICE
    assert content(store) == {("client", b""): b"", ("client", b"k"): b"2"}


@type_of_store
def test_a_step_that_raises_leaves_no_trace(store: Store) -> None:
    with store.transaction() as t:
        t.put("a", b"kept", b"old")
        t.put("a", b"also", b"old")
    before = content(store)
    for failure in (RuntimeError, KeyboardInterrupt, GeneratorExit):

        def change(t: Transaction, failure: type[BaseException] = failure) -> None:
            t.put("a", b"kept", b"new")
            t.put("b", b"made", b"new")
            t.delete_prefix("a")
            t.put("a", b"kept", b"newer")
            raise failure

        with pytest.raises(failure):
            step(store, change)
        assert content(store) == before


@type_of_store
def test_transactions_do_not_nest_and_the_outer_one_goes_on(store: Store) -> None:
    with store.transaction() as t:
        t.put("a", b"1", b"")
        with pytest.raises(UsageError), store.transaction():
            pass
        with pytest.raises(UsageError):
            store.close()
        t.put("a", b"2", b"")
    assert set(content(store)) == {("a", b"1"), ("a", b"2")}


@type_of_store
def test_a_transaction_is_dead_after_its_block(store: Store) -> None:
    with store.transaction() as t:
        t.put("a", b"1", b"")
        t.put("a", b"2", b"")
        walk, names = t.items("a"), t.spaces()
        next(walk)
        next(names)
    uses: list[Callable[[], object]] = [
        lambda: t.get("a", b"1"),
        lambda: t.put("a", b"3", b""),
        lambda: t.delete("a", b"1"),
        lambda: t.delete_prefix("a"),
        lambda: next(t.items("a")),
        lambda: next(t.spaces()),
        lambda: next(walk),
        lambda: next(names),
    ]
    for use in uses:
        with pytest.raises(UsageError):
            use()
    assert set(content(store)) == {("a", b"1"), ("a", b"2")}


@type_of_store
def test_a_closed_store_refuses_everything_but_closing(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(UsageError), store.transaction():
        pass
    assert isinstance(store, SQLiteStore | MemoryStore)
    with pytest.raises(UsageError):
        store.scrub()


@pytest.mark.parametrize("account", ["", "alice@wonderland.example/device"])
def test_the_account_must_be_a_bare_jid(path: Path, account: str) -> None:
    with pytest.raises(UsageError):
        MemoryStore(account)
    with pytest.raises(UsageError):
        SQLiteStore(path, account)
    assert not path.exists()


@type_of_store
def test_items_come_in_the_order_of_octets_and_prefixes_are_exact(store: Store) -> None:
    keys = [b"", b"\0", b"\0\0", b"a", b"a%", b"a\x00", b"a\xfe", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff\1"]
    shuffled = keys.copy()
    random.Random(1).shuffle(shuffled)
    with store.transaction() as t:
        for key in shuffled:
            t.put("s", key, key * 2)
            t.put("s2", key, b"")
        for prefix in [*keys, b"c", b"a\xff\x00", b"%", b"_"]:
            expected = sorted(key for key in keys if key.startswith(prefix))
            assert list(t.items("s", prefix)) == [(key, key * 2) for key in expected]
        for prefix in (b"a\xff", b"\xff", b""):
            t.delete_prefix("s", prefix)
            keys = [key for key in keys if not key.startswith(prefix)]
            assert [key for key, _ in t.items("s")] == sorted(keys)
        assert len(list(t.items("s2"))) == len(shuffled)
        assert list(t.spaces()) == ["s2"]


@type_of_store
def test_spaces_come_in_order_and_only_while_they_hold_something(store: Store) -> None:
    names = ["client", "group/", "group/00", "group/0a", "group0", "", "\U0001f600", "\uffff"]
    with store.transaction() as t:
        for name in names:
            t.put(name, b"k1", b"")
            t.put(name, b"k2", b"")
        assert list(t.spaces()) == sorted(names)
        assert list(t.spaces("group/")) == ["group/", "group/00", "group/0a"]
        assert list(t.spaces("nothing")) == []
        for name in t.spaces("group/"):
            t.delete_prefix(name)
        assert list(t.spaces("group")) == ["group0"]


@type_of_store
@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_a_walk_sees_what_is_written_ahead_of_it_and_nothing_behind(store: Store, count: int) -> None:
    with store.transaction() as t:
        for n in range(count):
            t.put("s", bytes([1, n]), b"old")
        seen = []
        for key, value in t.items("s"):
            seen.append((key, value))
            t.delete("s", key)
            t.put("s", b"\x00" + key, b"behind")
            if key == bytes([1, 0]) and count > 1:
                t.put("s", bytes([1, count - 1]), b"new")
            if key == bytes([1, count - 1]):
                t.put("s", b"\x02", b"added")
        expected = [(bytes([1, n]), b"old") for n in range(count)]
        if count > 1:
            expected[-1] = (bytes([1, count - 1]), b"new")
        assert seen == [*expected, (b"\x02", b"added")]
        assert len(list(t.items("s"))) == count + 1


class Model(RuleBasedStateMachine):
    """Both stores and a dictionary, through the same random steps, rollbacks and reopenings."""

    spaces = st.sampled_from(["", "client", "group/aa", "group/ab", "group\x00"])
    keys = st.text("\x00a\xff", max_size=3).map(lambda text: text.encode("latin-1"))
    values = st.binary(max_size=20) | st.binary(min_size=5000, max_size=9000)

    @initialize()
    def start(self) -> None:
        self.folder = Path(os.environ["STORE_MODEL_FOLDER"])
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.sqlite = SQLiteStore(self.folder / "s.db", ALICE)
        self.memory = MemoryStore(ALICE)
        self.model: dict[tuple[str, bytes], bytes] = {}

    steps = st.lists(
        st.one_of(
            st.tuples(st.just("put"), spaces, keys, values),
            st.tuples(st.just("delete"), spaces, keys),
            st.tuples(st.just("delete_prefix"), spaces, keys),
        ),
        max_size=12,
    )

    @rule(steps=steps, abort=st.booleans(), prefix=keys)
    def change(self, steps: list[tuple[Any, ...]], abort: bool, prefix: bytes) -> None:
        after = self.model.copy()
        for name, space, key, *value in steps:
            if name == "put":
                after[space, key] = value[0]
            elif name == "delete":
                after.pop((space, key), None)
            else:
                after = {(s, k): v for (s, k), v in after.items() if s != space or not k.startswith(key)}
        for store in (self.sqlite, self.memory):
            try:
                with store.transaction() as t:
                    for name, *arguments in steps:
                        getattr(t, name)(*arguments)
                    self.compare(t, after, prefix)
                    if abort:
                        raise LookupError
            except LookupError:
                pass
        if not abort:
            self.model = after

    @staticmethod
    def compare(t: Transaction, model: dict[tuple[str, bytes], bytes], prefix: bytes) -> None:
        names = sorted({space for space, _ in model})
        assert list(t.spaces()) == names
        assert list(t.spaces("group/")) == [name for name in names if name.startswith("group/")]
        for name in [*names, "missing"]:
            expected = sorted((k, v) for (s, k), v in model.items() if s == name and k.startswith(prefix))
            assert list(t.items(name, prefix)) == expected
        for (space, key), value in model.items():
            assert t.get(space, key) == value

    @rule(scrub=st.booleans())
    def reopen(self, scrub: bool) -> None:
        if scrub:
            self.sqlite.scrub()
        self.sqlite.close()
        self.sqlite = SQLiteStore(self.folder / "s.db", ALICE)

    @invariant()
    def same(self) -> None:
        for store in (self.sqlite, self.memory) if hasattr(self, "sqlite") else ():
            with store.transaction() as t:
                self.compare(t, self.model, b"")

    def teardown(self) -> None:
        if hasattr(self, "sqlite"):
            self.sqlite.close()


def test_both_stores_behave_like_a_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_MODEL_FOLDER", str(tmp_path / "model"))
    run_state_machine_as_test(Model, settings=settings(max_examples=40, stateful_step_count=15, deadline=None))


# -- the file ---------------------------------------------------------------------------------------


def test_what_was_written_is_there_after_reopening(path: Path) -> None:
    first = SQLiteStore(path, ALICE)
    with first.transaction() as t:
        t.put("client", b"k", b"v")
    first.close()
    second = SQLiteStore(str(path), ALICE)
    assert content(second) == {("client", b"k"): b"v"}
    second.close()


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_all_files_are_for_their_owner_only(path: Path) -> None:
    mask = os.umask(0)
    try:
        store = SQLiteStore(path, ALICE)
        with store.transaction() as t:
            t.put("client", b"k", b"v")
        files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        store.close()
    finally:
        os.umask(mask)
    assert files == {"alice.db": 0o600, "alice.db-wal": 0o600, "alice.db.lock": 0o600}


def test_durability_settings_are_in_force(path: Path) -> None:
    store = SQLiteStore(path, ALICE)
    expected = {
        "journal_mode": "wal",
        "locking_mode": "exclusive",
        "secure_delete": 1,
        "synchronous": 2,  # FULL
        "temp_store": 2,  # MEMORY
    }
    assert {name: store._execute(f"PRAGMA {name}")[0][0] for name in expected} == expected
    store.close()


def test_a_power_cut_undoes_only_what_need_not_last_and_never_a_lasting_step(path: Path, tmp_path: Path) -> None:
    """What the disk has at the last moment is the log up to the last time that it was waited for."""
    store = SQLiteStore(path, ALICE)
    log = path.with_name(f"{path.name}-wal")
    sizes: list[int] = []
    for number, lasting in enumerate([True, False, False, True, False]):
        with store.transaction(lasting=lasting) as t:
            t.put("client", bytes([number]), b"v")
        assert store._execute("PRAGMA synchronous")[0][0] == (2 if lasting else 1)  # FULL, NORMAL
        sizes.append(log.stat().st_size)

    def after(number: int) -> list[bytes]:
        """What a store finds whose log ends with this step."""
        copy = tmp_path / f"copy{number}.db"
        shutil.copy(path, copy)
        log_of_copy = copy.with_name(f"{copy.name}-wal")
        log_of_copy.touch(0o600)
        log_of_copy.write_bytes(log.read_bytes()[: sizes[number]])
        found = SQLiteStore(copy, ALICE)
        with found.transaction() as t:
            keys = [key for key, _ in t.items("client")]
        found.close()
        return keys

    assert after(4) == [b"\0", b"\1", b"\2", b"\3", b"\4"]  # killed
    assert after(3) == [b"\0", b"\1", b"\2", b"\3"]  # cut off before the last one was on the disk
    assert after(0) == [b"\0"]
    store.close()


@pytest.mark.parametrize("name", ["", ":memory:"])
def test_a_store_without_a_file_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        SQLiteStore(name, ALICE)


def test_a_folder_that_is_missing_and_a_file_that_is_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        SQLiteStore(tmp_path / "nowhere" / "s.db", ALICE)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="folder"):
        SQLiteStore(tmp_path / "folder", ALICE)


def test_another_thread_is_refused_and_does_no_harm(path: Path) -> None:
    store = SQLiteStore(path, ALICE)
    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with store.transaction() as t:
                t.put("client", b"k", b"v")
        except UsageError as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(errors) == 1
    with store.transaction() as t:
        t.put("client", b"here", b"v")
    assert set(content(store)) == {("client", b"here")}
    store.close()


def test_a_hundred_thousand_rows_in_one_transaction(path: Path) -> None:
    """Of a tree's usual size, 300 octets each; the walk streams and the log is cut at once."""
    store = SQLiteStore(path, ALICE)
    with store.transaction() as t:
        for n in range(100_000):
            t.put("group/00", n.to_bytes(4, "big"), n.to_bytes(4, "big") * 75)
    assert path.with_name("alice.db-wal").stat().st_size == 0
    with store.transaction() as t:
        for n, (key, value) in enumerate(t.items("group/00")):
            assert key == n.to_bytes(4, "big")
            assert value == key * 75
        assert n == 99_999
        assert [key for key, _ in t.items("group/00", b"\x00\x01\x86")] == [
            n.to_bytes(4, "big") for n in range(0x18600, 100_000)
        ]
    store.close()


# -- files that were there before -------------------------------------------------------------------

BESIDE = ["", "-wal", "-shm", "-journal", ".lock", ".wrapped-key"]


def modes(folder: Path) -> dict[str, int]:
    return {file.name: file.lstat().st_mode for file in folder.iterdir()}


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("mode", [0o666, 0o640, 0o601, 0o620])
def test_a_file_that_others_may_read_or_write_is_refused(path: Path, beside: str, mode: int) -> None:
    SQLiteStore(path, ALICE).close()
    file = Path(f"{path}{beside}")
    file.touch()
    file.chmod(mode)
    with pytest.raises(StoreError, match="chmod 600") as caught:
        SQLiteStore(path, ALICE)
    assert str(file) in str(caught.value)
    assert stat.S_IMODE(file.stat().st_mode) == mode  # nothing is changed behind the owner's back
    # What the text says helps; but a key that somebody else has put there belongs to nothing.
    file.chmod(0o600)
    if beside != ".wrapped-key":
        SQLiteStore(path, ALICE).close()


@pytest.mark.skipif(sys.platform == "win32", reason="symlinks of POSIX")
@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("dangling", [True, False])
def test_a_symlink_is_not_followed(path: Path, tmp_path: Path, beside: str, dangling: bool) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    if not dangling:
        (target / "file").touch(0o600)
    before = modes(target)
    path.parent.mkdir(exist_ok=True)
    Path(f"{path}{beside}").symlink_to(target / "file")
    with pytest.raises(StoreError, match="is a symlink"):
        SQLiteStore(path, ALICE)
    assert modes(target) == before
    assert dangling or (target / "file").read_bytes() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="owners of POSIX")
@pytest.mark.parametrize("beside", BESIDE)
def test_a_file_of_another_user_is_refused(path: Path, beside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    SQLiteStore(path, ALICE).close()
    Path(f"{path}{beside}").touch(0o600)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(StoreError, match=f"belongs to user {owner}"):
        SQLiteStore(path, ALICE)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
@pytest.mark.parametrize("beside", BESIDE)
def test_what_is_not_a_file_is_refused_and_does_not_block(path: Path, beside: str) -> None:
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(f"{path}{beside}", 0o600)
    with pytest.raises(StoreError, match="regular file"):
        SQLiteStore(path, ALICE)


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
def test_a_log_that_somebody_slips_in_while_the_store_is_opened_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SQLiteStore(path, ALICE).close()
    configure = SQLiteStore._configure

    def slip_in(store: SQLiteStore) -> None:
        configure(store)
        Path(f"{path}-wal").chmod(0o666)

    monkeypatch.setattr(SQLiteStore, "_configure", slip_in)
    with pytest.raises(StoreError, match="chmod 600"):
        SQLiteStore(path, ALICE)


# -- whose file, and who has it open ----------------------------------------------------------------


def test_a_second_open_in_the_same_process_is_refused_and_names_the_file(path: Path, tmp_path: Path) -> None:
    first = SQLiteStore(path, ALICE)
    (tmp_path / "alias").symlink_to(path.parent)
    for name in (path, tmp_path / "alias" / path.name):
        with pytest.raises(StoreLocked, match=r"alice\.db"):
            SQLiteStore(name, ALICE)
    with first.transaction() as t:
        t.put("client", b"k", b"v")
    first.close()
    SQLiteStore(path, ALICE).close()


HOLDER = """
import sys, time
from slixmpp_mls.store import SQLiteStore
store = SQLiteStore(sys.argv[1], "alice@wonderland.example")
with store.transaction() as t:
    t.put("client", b"k", b"v")
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", STORE_ALONE + HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreLocked, match=r"alice\.db"):
            SQLiteStore(path, ALICE)
    finally:
        holder.kill()
        holder.communicate()
    store = SQLiteStore(path, ALICE)  # a killed process leaves no lock behind
    assert content(store) == {("client", b"k"): b"v"}
    store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_the_lock_comes_before_the_first_look_at_the_file(path: Path) -> None:
    import fcntl

    path.with_name("alice.db.lock").touch(0o600)
    with path.with_name("alice.db.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreLocked, match=r"alice\.db"):
            SQLiteStore(path, ALICE)
        assert not path.exists()
    SQLiteStore(path, ALICE).close()


def test_where_the_lock_file_does_not_help_sqlite_still_does(path: Path) -> None:
    first = SQLiteStore(path, ALICE)
    path.with_name("alice.db.lock").unlink()
    with pytest.raises(StoreLocked, match=r"alice\.db"):
        SQLiteStore(path, ALICE)
    first.close()


def test_a_store_belongs_to_the_account_that_opened_it_first(path: Path) -> None:
    SQLiteStore(path, ALICE).close()
    before = path.read_bytes()
    with pytest.raises(StoreMismatch, match=r"alice@wonderland\.example.*hatter@wonderland\.example"):
        SQLiteStore(path, "hatter@wonderland.example")
    assert path.read_bytes() == before
    SQLiteStore(path, ALICE).close()


def test_a_database_of_another_program_is_left_alone(path: Path) -> None:
    path.touch(0o600)
    with sqlite3.connect(path) as foreign:
        foreign.execute("CREATE TABLE t (x)")
    foreign.close()
    before = path.read_bytes()
    with pytest.raises(StoreMismatch, match="another program"):
        SQLiteStore(path, ALICE)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_left_alone(path: Path) -> None:
    path.touch(0o600)
    path.write_bytes(b"Dear diary, " * 1000)
    with pytest.raises(StoreError, match="damaged"):
        SQLiteStore(path, ALICE)
    assert path.read_bytes() == b"Dear diary, " * 1000


def test_damage_is_an_error_and_not_an_empty_answer(path: Path) -> None:
    store = SQLiteStore(path, ALICE)
    with store.transaction() as t:
        for n in range(2000):
            t.put("group/00", n.to_bytes(2, "big"), bytes(300))
    store.close()
    with path.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xaa" * 4096 * 40)
    store = SQLiteStore(path, ALICE)
    with pytest.raises(StoreError, match="damaged"):
        content(store)
    store.close()


# -- versions ---------------------------------------------------------------------------------------


def old_store(path: Path) -> None:
    store = SQLiteStore(path, ALICE)
    with store.transaction() as t:
        t.put("client", b"k", b"v")
    store.close()


def add_table(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE extra (name TEXT)")
    connection.execute("INSERT INTO extra SELECT space FROM entry")


def rename_spaces(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE entry SET space = 'renamed/' || space")


def version_of(path: Path) -> int:
    with sqlite3.connect(path) as database:
        version: int = database.execute("PRAGMA user_version").fetchone()[0]
    database.close()
    return version


def test_an_older_store_is_migrated_once_and_in_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_store(path)
    monkeypatch.setattr(sqlite, "MIGRATIONS", (*sqlite.MIGRATIONS, add_table, rename_spaces))
    for _ in range(2):
        store = SQLiteStore(path, ALICE)
        assert content(store) == {("renamed/client", b"k"): b"v"}
        assert store._execute("SELECT name FROM extra") == [("client",)]
        store.close()
    assert version_of(path) == len(sqlite.MIGRATIONS)


def test_a_new_store_runs_all_migrations(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "MIGRATIONS", (*sqlite.MIGRATIONS, add_table))
    store = SQLiteStore(path, ALICE)
    assert store._execute("SELECT * FROM extra") == []
    store.close()
    assert version_of(path) == len(sqlite.MIGRATIONS)


def test_a_migration_that_fails_leaves_the_old_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO no_such_table VALUES (1)")

    old_store(path)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "MIGRATIONS", (*sqlite.MIGRATIONS, add_table, rename_spaces, broken))
        with pytest.raises(StoreError, match="no_such_table"):
            SQLiteStore(path, ALICE)
    assert version_of(path) == len(sqlite.MIGRATIONS)
    store = SQLiteStore(path, ALICE)
    assert content(store) == {("client", b"k"): b"v"}
    assert store._execute("SELECT count(*) FROM sqlite_master WHERE name = 'extra'") == [(0,)]
    store.close()


def test_a_migration_of_somebody_elses_store_does_not_happen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_store(path)
    released = len(sqlite.MIGRATIONS)
    monkeypatch.setattr(sqlite, "MIGRATIONS", (*sqlite.MIGRATIONS, add_table))
    with pytest.raises(StoreMismatch):
        SQLiteStore(path, "hatter@wonderland.example")
    assert version_of(path) == released


def test_a_newer_store_is_refused_untouched(path: Path) -> None:
    old_store(path)
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {len(sqlite.MIGRATIONS) + 1}")
    database.close()
    before = path.read_bytes()
    with pytest.raises(StoreMismatch, match="newer"):
        SQLiteStore(path, ALICE)
    assert path.read_bytes() == before
