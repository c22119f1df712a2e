"""The store under a passphrase: nothing readable on the disk, the right secret or an error, no half conversions."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slixmpp_mls.client import Device, KeyPackageSettings, RoomGroup
from slixmpp_mls.errors import StoreError, StoreFull, StoreLocked, StoreMismatch, UsageError, WrongPassphrase
from slixmpp_mls.policy import RoomPolicy
from slixmpp_mls.store import SQLiteStore, StoreSecret, change_secret, decrypt, encrypt, store_secret, wrapped_key

from ..programs import STORE_ALONE
from . import test_crash, test_store
from .test_store import ALICE, content, step

SECRET = StoreSecret.of_passphrase("double, double toil and trouble")
OTHER = StoreSecret.of_passphrase("fire burn and cauldron bubble")
ROOM = "coven@rooms.example"
NOW = 1_800_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "alice.db"


@pytest.fixture
def store(path: Path) -> SQLiteStore:
    return SQLiteStore(path, ALICE, secret=SECRET)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that open many stores: the least that Argon2id can do."""
    monkeypatch.setattr(wrapped_key, "_MEMORY", 32)
    monkeypatch.setattr(wrapped_key, "_PASSES", 1)
    monkeypatch.setattr(wrapped_key, "_LANES", 1)
    monkeypatch.setitem(wrapped_key._BOUNDS, "memory", (32, 1 << 20))
    monkeypatch.setitem(wrapped_key._BOUNDS, "passes", (1, 48))


def raw(path: Path) -> bytes:
    """Everything that the folder of the store holds on the disk."""
    return b"".join(file.name.encode() + file.read_bytes() for file in sorted(path.parent.iterdir()))


def fill(store: SQLiteStore) -> dict[tuple[str, bytes], bytes]:
    with store.transaction() as t:
        for n in range(300):
            t.put(f"space {n % 3}", n.to_bytes(2, "big"), bytes([n % 256]) * n)
    return content(store)


# -- what is on the disk ------------------------------------------------------------------------------


def wicked(store: SQLiteStore) -> list[bytes]:
    """A device in a group, with a message on its way; what nobody must find on the disk."""
    device = Device(store, settings=KeyPackageSettings(count=2))
    device.key_packages.plan((), NOW)
    group = RoomGroup(device, ROOM)
    group.lifecycle.create(1, RoomPolicy(ROOM, (ALICE,)), NOW)
    group.sending.compose(b"something wicked this way comes")
    state = group.mls
    found = [state.secrets.encode(), state.signature_key.encode(), device.identity.device.encode()]
    found += [state.secrets.init_secret, state.secrets.epoch_authenticator, state.group_id]
    return [*found, b"something wicked", ROOM.encode(), ALICE.encode(), b"wonderland", b"key-package", b"CREATE TABLE"]


@pytest.mark.parametrize("secret", [SECRET, None], ids=["encrypted", "plain"])
def test_no_key_no_message_and_no_name_can_be_read_in_its_files(path: Path, secret: StoreSecret | None) -> None:
    """In the database, in its log, beside them; and it is this search that would find them in a plain store."""
    store = SQLiteStore(path, ALICE, secret=secret)
    found = wicked(store)
    assert path.with_name("alice.db-wal").stat().st_size > 4096
    before = raw(path)
    store.close()
    for disk in (before, raw(path)):
        assert [each for each in found if each in disk] == ([] if secret else found)


def test_all_files_are_for_their_owner_only(store: SQLiteStore, path: Path) -> None:
    fill(store)
    names = {file.name for file in path.parent.iterdir()}
    assert names == {"alice.db", "alice.db-wal", "alice.db.lock", "alice.db.wrapped-key"}
    if os.name == "posix":
        assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    store.close()


def test_a_changed_page_is_damage_and_never_content(path: Path) -> None:
    """Each page bears an HMAC: who can write the file can destroy it, not forge it."""
    store = SQLiteStore(path, ALICE, secret=SECRET)
    fill(store)
    assert store.check() == []
    store.close()
    octets = bytearray(path.read_bytes())
    octets[len(octets) // 2] ^= 1
    path.write_bytes(octets)
    store = SQLiteStore(path, ALICE, secret=SECRET)
    with pytest.raises(StoreError, match="damaged"):
        content(store)
    store.close()


# -- the contract of every store ----------------------------------------------------------------------

CONTRACT: list[Callable[..., None]] = [
    test_store.test_a_step_is_kept_and_its_reads_see_its_own_writes,
    test_store.test_a_step_that_raises_leaves_no_trace,
    test_store.test_transactions_do_not_nest_and_the_outer_one_goes_on,
    test_store.test_a_transaction_is_dead_after_its_block,
]


@pytest.mark.parametrize("test", CONTRACT)
def test_the_contract_of_every_store(test: Callable[..., None], store: SQLiteStore) -> None:
    test(store)
    store.close()


def test_a_database_at_its_limit_is_full(store: SQLiteStore) -> None:
    step(store, lambda t: t.put("client", b"state", b"old"))
    store._execute("PRAGMA max_page_count = 200")
    test_crash.check_full(store, StoreFull, lambda: store._execute("PRAGMA max_page_count = 100000"))


def test_it_is_there_again_after_scrub_and_close(store: SQLiteStore, path: Path) -> None:
    before = fill(store)
    store.scrub()
    store.close()
    for account in (ALICE, None):
        store = SQLiteStore(path, account, secret=SECRET)
        assert (content(store), store.account, store.encrypted) == (before, ALICE, True)
        store.close()
    with pytest.raises(StoreMismatch, match="belongs to"):
        SQLiteStore(path, "bob@wonderland.example", secret=SECRET)


# -- secrets ------------------------------------------------------------------------------------------


def test_a_wrong_or_missing_passphrase_is_its_own_error_and_leaves_the_store_alone(path: Path) -> None:
    SQLiteStore(path, ALICE, secret=SECRET).close()
    before = raw(path)
    for secret in (OTHER, None):
        with pytest.raises(WrongPassphrase):
            SQLiteStore(path, ALICE, secret=secret)
    assert raw(path) == before
    SQLiteStore(path, ALICE, secret=SECRET).close()


def test_a_passphrase_for_a_plain_store_is_no_silent_plaintext(path: Path) -> None:
    SQLiteStore(path, ALICE).close()
    with pytest.raises(StoreMismatch, match="not encrypted"):
        SQLiteStore(path, ALICE, secret=SECRET)
    assert not wrapped_key.place(path).exists()


def test_a_key_file_opens_and_only_as_a_whole(path: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    secret = store_secret(None, key)
    SQLiteStore(path, ALICE, secret=secret).close()
    SQLiteStore(path, ALICE, secret=StoreSecret.of_key_file(key)).close()
    key.write_bytes(key.read_bytes() + b"\n")
    with pytest.raises(WrongPassphrase):
        SQLiteStore(path, ALICE, secret=StoreSecret.of_key_file(key))
    for octets in (31, (64 << 10) + 1):
        key.write_bytes(bytes(octets))
        with pytest.raises(UsageError, match="must have 32 to 65536 octets"):
            StoreSecret.of_key_file(key)
    with pytest.raises(UsageError, match="cannot read"):
        StoreSecret.of_key_file(tmp_path / "missing")


def test_what_a_configuration_may_say(tmp_path: Path) -> None:
    assert store_secret(None, None) is None
    assert (
        store_secret("caf\u00e9", None)
        == store_secret(lambda: "cafe\u0301", None)
        == store_secret(StoreSecret.of_passphrase("caf\u00e9"), None)
    )
    with pytest.raises(UsageError):
        store_secret("", None)
    with pytest.raises(UsageError, match="not both"):
        store_secret("x", tmp_path / "key")
    assert "x" not in repr(StoreSecret.of_passphrase("x"))[12:]


def test_a_lost_wrapped_key_is_said(path: Path) -> None:
    SQLiteStore(path, ALICE, secret=SECRET).close()
    wrapped_key.place(path).unlink()
    with pytest.raises(StoreError, match="wrapped-key is missing"):
        SQLiteStore(path, ALICE, secret=SECRET)
    with pytest.raises(StoreError, match="no store at all"):
        SQLiteStore(path, ALICE)


def test_without_sqlcipher_the_error_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlcipher3", None)
    with pytest.raises(UsageError, match=r"slixmpp-mls\[encrypted\]"):
        SQLiteStore(path, ALICE, secret=SECRET)
    assert not path.exists()


# -- the wrapped key ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"memory": 2**40},
        {"memory": 64},
        {"memory": "65536"},
        {"passes": 0},
        {"passes": 10**9},
        {"lanes": True},
        {"lanes": 10**6},
        {"format": "another"},
        {"kdf": "none"},
        {"salt": ""},
        {"nonce": "AAAA"},
        {"key": "?"},
        {"key": base64.b64encode(bytes(47)).decode()},
    ],
    ids=str,
)
def test_parameters_out_of_bounds_are_damage(tmp_path: Path, change: dict[str, object]) -> None:
    file = tmp_path / "key"
    wrapped_key.wrap_key(file, SECRET)
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(StoreError, match="damaged") as caught:
        wrapped_key.open_key(file, SECRET)
    assert not isinstance(caught.value, WrongPassphrase)


@pytest.mark.parametrize("octets", [b"", b"[]", b"{", b"\xff", b"[" * 4000, b" " * 5000 + b"{}"])
def test_garbage_instead_of_the_wrapped_key_is_damage(tmp_path: Path, octets: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(octets)
    with pytest.raises(StoreError, match="damaged"):
        wrapped_key.open_key(file, SECRET)


def test_everything_in_it_is_authenticated(tmp_path: Path, quick: None) -> None:
    file = tmp_path / "key"
    key = wrapped_key.wrap_key(file, SECRET)
    assert wrapped_key.open_key(file, SECRET) == key
    head = json.loads(file.read_text())
    for name in ("salt", "nonce", "key"):
        octets = bytearray(base64.b64decode(head[name]))
        octets[0] ^= 1
        file.write_text(json.dumps({**head, name: base64.b64encode(octets).decode()}))
        with pytest.raises(WrongPassphrase):
            wrapped_key.open_key(file, SECRET)
    file.write_text(json.dumps({**head, "more": 1}))
    with pytest.raises(WrongPassphrase):
        wrapped_key.open_key(file, SECRET)


# -- conversions --------------------------------------------------------------------------------------


def test_there_and_back(path: Path) -> None:
    store = SQLiteStore(path, ALICE)
    found = wicked(store)
    before = content(store)
    store.close()
    encrypt(path, SECRET)
    assert not [each for each in found if each in raw(path)]
    with pytest.raises(UsageError, match="already"):
        encrypt(path, SECRET)
    store = SQLiteStore(path, ALICE, secret=SECRET)
    assert content(store) == before
    with pytest.raises(StoreLocked):
        decrypt(path, SECRET)
    store.close()
    with pytest.raises(WrongPassphrase):
        decrypt(path, OTHER)
    decrypt(path, SECRET)
    assert {file.name for file in path.parent.iterdir()} == {"alice.db", "alice.db.lock"}
    store = SQLiteStore(path, ALICE)
    assert content(store) == before
    store.close()
    with pytest.raises(StoreMismatch):
        decrypt(path, SECRET)
    with pytest.raises(UsageError, match="no store"):
        encrypt(path.with_name("missing"), SECRET)


def test_the_old_file_is_overwritten(path: Path) -> None:
    """Seen through a second name of the same file, as the blocks of the disk would be."""
    store = SQLiteStore(path, ALICE)
    fill(store)
    store.close()
    size = path.stat().st_size
    os.link(path, path.with_name("blocks"))
    encrypt(path, SECRET)
    old = path.with_name("blocks").read_bytes()
    assert len(old) >= size
    assert not any(old)


def test_another_passphrase_rewrites_the_wrapped_key_alone(path: Path) -> None:
    store = SQLiteStore(path, ALICE, secret=SECRET)
    before = fill(store)
    store.close()
    octets = path.read_bytes()
    with pytest.raises(WrongPassphrase):
        change_secret(path, OTHER, SECRET)
    change_secret(path, SECRET, OTHER)
    assert path.read_bytes()[:16] == octets[:16]
    assert path.stat().st_size == len(octets)
    with pytest.raises(WrongPassphrase):
        SQLiteStore(path, ALICE, secret=SECRET)
    store = SQLiteStore(path, ALICE, secret=OTHER)
    assert content(store) == before
    with pytest.raises(StoreLocked):
        change_secret(path, OTHER, SECRET)
    store.close()


# Ends without warning at the n-th time that it opens, renames, removes or syncs a file.
DYING = """
import os, sys
from slixmpp_mls.store import StoreSecret, conversion, wrapped_key
wrapped_key._MEMORY, wrapped_key._PASSES, wrapped_key._LANES = 32, 1, 1
wrapped_key._BOUNDS.update(memory=(32, 1024), passes=(1, 48))
left = int(sys.argv[3])
fsync = os.fsync
def count(event, args=()):
    global left
    if event in ("open", "os.rename", "os.remove", "fsync") and "{}" in "".join(map(str, args)) or event == "fsync":
        left -= 1
        if left < 0:
            os._exit(9)
def counting(descriptor):
    count("fsync")
    fsync(descriptor)
os.fsync = counting
secret = StoreSecret.of_passphrase("double")
import sqlcipher3
sys.addaudithook(count)
getattr(conversion, sys.argv[2])(sys.argv[1], *[secret] * (1 + (sys.argv[2] == "change_secret")))
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["encrypt", "decrypt", "change_secret"])
def test_whenever_a_conversion_is_stopped_the_store_is_whole(path: Path, what: str, quick: None) -> None:
    secret = StoreSecret.of_passphrase("double")
    store = SQLiteStore(path, ALICE, secret=None if what == "encrypt" else secret)
    before = fill(store)
    store.close()
    folder = path.parent / "copy"
    stops = 0
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file in path.parent.iterdir():
            if file.is_file():
                shutil.copy(file, folder)
        copy = folder / path.name
        program = DYING.replace("{}", folder.name)
        done = subprocess.run([sys.executable, "-c", STORE_ALONE + program, str(copy), what, str(stops)], check=False)
        assert done.returncode in (0, 9)
        for again in range(2):
            try:
                store = SQLiteStore(copy, ALICE, secret=secret)
            except StoreMismatch:
                store = SQLiteStore(copy, ALICE)
            assert content(store) == before
            encrypted = store.encrypted
            store.close()
            if again:
                break
            if what == "change_secret":
                change_secret(copy, secret, secret)
            elif encrypted == (what == "decrypt"):
                (decrypt if encrypted else encrypt)(copy, secret)
        assert encrypted == (what != "decrypt")
        assert not {file.name for file in folder.iterdir()} & {"alice.db.converted", "alice.db.converted.wrapped-key"}
        if done.returncode == 0:
            break
        stops += 1
    assert stops > (3 if what == "change_secret" else 8)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_step_acknowledged_before_sigkill_is_whole(path: Path, quick: None) -> None:
    program = """
from slixmpp_mls.store import StoreSecret, wrapped_key
wrapped_key._MEMORY, wrapped_key._PASSES, wrapped_key._LANES = 32, 1, 1
wrapped_key._BOUNDS.update(memory=(32, 1024), passes=(1, 48))
""" + test_crash.WRITER.replace('example")', 'example", secret=StoreSecret.of_passphrase("double"))')
    secret, chance, reached = StoreSecret.of_passphrase("double"), random.Random(3), 0
    for _ in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", STORE_ALONE + program, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        first = writer.stdout.readline()
        assert first == f"{reached + 1}\n"
        time.sleep(chance.uniform(0, 0.1))
        writer.send_signal(signal.SIGKILL)
        acknowledged = int([first, *writer.stdout][-1].strip() or 0)
        writer.wait()
        store = SQLiteStore(path, ALICE, secret=secret)
        found = content(store)
        store.close()
        mark = found.pop(("client", b"number"))
        reached = int.from_bytes(mark, "big")
        assert acknowledged <= reached <= acknowledged + 1
        assert found == {("rows", mark + bytes([n])): mark * (n * 7 + 1) for n in range(reached % 40)}
