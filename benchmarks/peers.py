"""The same operations by AWS mls-rs, through the wheel that the interoperability tests use."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

__all__ = ["Adding", "Talking", "adding", "available", "talking"]


@dataclass(frozen=True)
class Adding:
    """Seconds to add everybody in one commit, and for the last one to join."""

    add: float
    join: float


@dataclass(frozen=True)
class Talking:
    """Seconds for commits and messages between two members of a group of that size."""

    create: float
    process: float
    encrypt: float
    decrypt: float


def available() -> bool:
    """Whether the wheel is installed."""
    return find_spec("mls_rs_uniffi") is not None


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def adding(size: int) -> Adding:
    """A group of this size, made by one commit; the best of a few runs."""
    from tests.interop.mls_rs import MlsRsPeer
    from tests.interop.peers import Add

    runs = 1 if size > 1000 else 3
    best = Adding(float("inf"), float("inf"))
    for _ in range(runs):
        peer = MlsRsPeer()
        others = [peer.client(f"member{number}".encode(), 1) for number in range(1, size)]
        packages = [other.key_package() for other in others]
        group = peer.client(b"creator", 1).create_group(b"benchmark")
        made: list[object] = []
        add = _seconds(lambda: made.append(group.commit([Add(package) for package in packages])))  # noqa: B023
        commit = made[0]
        join = _seconds(lambda: others[-1].join(commit.welcome))  # type: ignore[attr-defined]  # noqa: B023
        best = Adding(min(best.add, add), min(best.join, join))
    return best


def talking(size: int) -> Talking:
    """The creator's first path in a group that one commit has filled, and 1 KiB messages."""
    from tests.interop.mls_rs import MlsRsPeer
    from tests.interop.peers import Add

    peer = MlsRsPeer()
    others = [peer.client(f"member{number}".encode(), 1) for number in range(1, size)]
    group = peer.client(b"creator", 1).create_group(b"benchmark")
    made = group.commit([Add(other.key_package()) for other in others])
    group.process(made.message)
    assert made.welcome is not None
    last = others[-1].join(made.welcome)
    create = process = encrypt = decrypt = float("inf")
    for _ in range(5):
        holder: list[object] = []
        create = min(create, _seconds(lambda: holder.append(group.commit())))  # noqa: B023
        commit = holder[0].message  # type: ignore[attr-defined]
        process = min(process, _seconds(lambda: last.process(commit)))  # noqa: B023
        group.process(commit)
    for _ in range(200):
        texts: list[bytes] = []
        encrypt = min(encrypt, _seconds(lambda: texts.append(group.encrypt(bytes(1024)))))  # noqa: B023
        decrypt = min(decrypt, _seconds(lambda: last.process(texts[0])))  # noqa: B023
    return Talking(create, process, encrypt, decrypt)
