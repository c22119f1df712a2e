"""Killed at any point, a client loses nothing that it accepted, repeats nothing, uses no key twice, and goes on."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from slixmpp import JID

from slixmpp_mls.authentication import device_lists
from slixmpp_mls.delivery import occupancy, stream
from slixmpp_mls.devserver import DevServer, Prosody
from tests.plugins import disable_mls

from ..conftest import unique
from ..patience import add_all
from .stories import ANSWERED_IN, PATIENCE
from .witnesses import Witness

AT_ONCE = 8  # stories told side by side
REHEARSALS = 4  # stories without a kill, from which the points are known
ATTEMPTS = 8  # to come to a point that is not come to every time; most are at the first
FAILURES = 3  # after so many it is not gone on
_PRIVATE = frozenset({"sealed", "sent", "points"})  # notes that are not the victim's memory

Point = tuple[str, int]

_numbers = count(1)


@pytest.fixture(autouse=True)
def a_busy_machine_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the witnesses as by the victims."""
    monkeypatch.setattr(stream, "TIMEOUT", ANSWERED_IN)
    monkeypatch.setattr(occupancy, "_SILENCE", ANSWERED_IN)
    monkeypatch.setattr(device_lists, "PATIENCE", ANSWERED_IN)


class Run:
    """One telling of a story, by one victim in one or two lives."""

    def __init__(self, story: str, kill_at: Point | None) -> None:
        self.name = f"{story}-{next(_numbers)}"
        self.story = story
        self.kill_at = kill_at
        self.notes: list[list[Any]] = []
        self.news = asyncio.Event()
        self.exits: asyncio.Queue[int] = asyncio.Queue()

    def note(self, entry: list[Any]) -> None:
        self.notes.append(entry)
        self.news.set()

    @property
    def killed(self) -> bool:
        """Whether it has come to the point at which it was to be killed."""
        return bool(self.all("killed"))

    def all(self, what: str) -> list[list[Any]]:
        """The data of all notes of one kind."""
        return [data for kind, *data in self.notes if kind == what]

    async def until(self, *entry: Any) -> None:
        while list(entry) not in self.notes:
            self.news.clear()
            await self.news.wait()

    def __str__(self) -> str:
        notes = (str(entry) for entry in self.notes if entry[0] not in _PRIVATE)
        return "\n".join([f"{self.name} at {self.kill_at}", *notes])


class Nursery:
    """The process that victims are forked from."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._runs: dict[str, Run] = {}
        self.reading = asyncio.create_task(self._read())

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Nursery]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.crash.nursery",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parent.parent.parent,
        )  # fmt: skip
        nursery = cls(process)
        try:
            yield nursery
        finally:
            nursery.reading.cancel()
            process.kill()
            await process.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            run = self._runs[said["run"]]
            if said["what"] == "exit":
                run.exits.put_nowait(said["data"][0])
            else:
                run.note([said["what"], *said["data"]])

    async def live(self, run: Run, job: dict[str, Any], kill_at: Point | None) -> int:
        """One life; how it ended."""
        self._runs[run.name] = run
        memory = [entry for entry in run.notes if entry[0] not in _PRIVATE]
        line = json.dumps({**job, "run": run.name, "story": run.story, "kill_at": kill_at, "known": memory})
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        return await run.exits.get()


class Stage:
    """A server, the witnesses, and the nursery.

    :ivar make_account: makes an account quickly
    """

    def __init__(self, server: DevServer, folder: Path, nursery: Nursery, bob: Witness, carol: Witness) -> None:
        self.server = server
        self.folder = folder
        self.nursery = nursery
        self.bob, self.carol = bob, carol
        self.model: JID | None = None

    async def account(self) -> tuple[str, str]:
        """A new account's bare JID and password.  Making one takes Prosody a process, copying one nothing."""
        if self.model is None or not isinstance(self.server, Prosody):
            self.model = await self.server.register(unique("victim"), uuid4().hex)
            return self.model.bare, self.server.accounts[self.model.bare]
        name = unique("victim")
        (model,) = (self.server.directory / "data").rglob(f"accounts/{self.model.local.replace('-', '%2d')}.dat")
        shutil.copy(model, model.with_name(f"{name.replace('-', '%2d')}.dat"))
        return f"{name}@{self.server.domain}", self.server.accounts[self.model.bare]

    async def tell(self, story: str, kill_at: Point | None = None) -> Run:
        """A story, its victim killed at a point, and what came of it."""
        run = Run(story, kill_at)
        account, password = await self.account()
        room = f"{unique('room')}@{self.server.rooms}"
        job = {
            "jid": account, "password": password, "room": room, "others": [self.bob.account, self.carol.account],
            "host": self.server.host, "port": self.server.port, "ca_file": str(self.server.ca_file),
            "store": str(self.folder / f"{run.name}.db"),
        }  # fmt: skip
        part = asyncio.create_task(getattr(self, f"_{story}")(run, room, account))
        try:
            async with asyncio.timeout(2.5 * PATIENCE):
                code = await self.nursery.live(run, job, kill_at)
                if code == -signal.SIGKILL:
                    assert run.killed
                    code = await self.nursery.live(run, job, None)
                others = part.exception() if part.done() and not part.cancelled() else part
                assert code == 0, f"a victim did not come to the end\n{run}\nwitnesses: {others!r}"
                await part
                self.check(run, room, account)
        except TimeoutError:
            raise AssertionError(f"somebody waits for ever\n{run}") from None
        finally:
            part.cancel()
        for witness in (self.bob, self.carol):
            await witness.forget(room)
        return run

    # What the witnesses do

    async def _founder(self, run: Run, room: str, victim: str) -> None:
        # carol has to have come in: who is removed before that is kept out by the room and can read nothing.
        await self.carol.hears(room, "one more")
        await self.bob.hears(room, "one")
        await (await self.bob.group(room)).send("re: one")
        await self.bob.hears(room, "two")
        await self.bob.until(lambda: self.bob.mls.room(room).accounts == [self.bob.account])
        assert self.carol.said_by(room, victim) == ["one", "one more"], str(run)

    async def _guest(self, run: Run, room: str, victim: str) -> None:
        await run.until("ready")
        group = await self.bob.mls.create(room)
        await add_all(group, victim, self.carol.account)
        carols = await self.carol.group(room)
        await run.until("joined")
        await group.send("first")
        await group.update()
        await carols.send("second")
        await self.bob.hears(room, "two")
        await group.send("third")
        await run.until("done")
        await group.remove(victim)
        await self.carol.until(lambda: self.carol.states.get((room, group.epoch)))
        assert group.epoch_authenticator == carols.epoch_authenticator
        assert group.accounts == sorted([self.bob.account, self.carol.account])

    # What must be true afterwards

    def check(self, run: Run, room: str, victim: str) -> None:
        for witness in (self.bob, self.carol):
            # Exactly once, in order.
            whole = ["one", "one more", "two"]
            if (run.story, witness) == ("founder", self.carol):
                whole.pop()  # which is sent when she is gone
            assert witness.said_by(room, victim) == whole, str(run)
            assert not witness.complaints[room], str(run)
        assert not run.all("complaint"), str(run)
        # At least once, in order, repetitions marked.
        seen: list[str] = []
        bodies: list[str] = []
        for archive_id, body, again in run.all("heard"):
            assert again or archive_id not in seen, str(run)
            if archive_id not in seen:
                seen.append(archive_id)
                bodies.append(body)
        assert bodies == (["re: one"] if run.story == "founder" else ["first", "second", "third"]), str(run)
        # RFC 9420 8.7: all in the same state.
        for epoch, authenticator in run.all("state"):
            assert self.bob.states[room, epoch] == authenticator, str(run)
        # RFC 9420 9.2: no key for two messages, whether anybody has got them or not.
        keys = dict(run.all("sealed"))
        used = Counter(keys[ciphertext] for ciphertext in {ciphertext for (ciphertext,) in run.all("sent")})
        assert used, str(run)
        assert set(used.values()) == {1}, str(run)


@asynccontextmanager
async def stage(server: DevServer, folder: Path) -> AsyncIterator[Stage]:
    witnesses = []
    for name in ("bob", "carol"):
        jid = await server.register(unique(name), uuid4().hex)
        witness = Witness(server, server.client(jid))
        await server.connect(witness.client)
        await witness.mls.ready()
        witnesses.append(witness)
    async with Nursery.open() as nursery:
        yield Stage(server, folder, nursery, *witnesses)
    for witness in witnesses:
        disable_mls(witness.client)
        await witness.client.disconnect(wait=1.0)
        witness.client.abort()


def cuts(points: Counter[str], *, each: bool) -> set[Point]:
    """At which points somebody is killed.

    The disk, and what is on its way to the server, are the same at a "before" as at the "after" that was come to last.
    Only what has come in meanwhile is lost, too; the first of a kind shows what becomes of that.  A request that only
    asks changes nothing here or there.

    :param points: how often each label is come to
    :param each: whether after each of the others, or after the first and the last of a kind
    """
    chosen: set[Point] = set()
    for label, times in points.items():
        if " before " in label:
            chosen.add((label, 1))
        elif " iq get " not in label:
            chosen |= {(label, number) for number in (range(1, times + 1) if each else (1, times))}
    return chosen


async def everywhere(
    tell: Callable[[Point | None], Coroutine[Any, Any, Run]], *, each: bool
) -> tuple[set[Point], set[Point], set[str]]:
    """Tell a story with a kill at each of its points, see :func:`cuts`.

    :returns: the points, those at which somebody was killed, and the labels of them that every telling came to
    """
    failures: list[str] = []
    places = asyncio.Semaphore(AT_ONCE)

    async def told(point: Point | None) -> Run | None:
        async with places:
            if len(failures) >= FAILURES:
                return None
            try:
                return await tell(point)
            except AssertionError as error:
                failures.append(str(error))
                return None

    points: Counter[str] = Counter()
    rehearsals: Counter[str] = Counter()
    for run in await asyncio.gather(*(told(None) for _ in range(REHEARSALS))):
        for label, times in run.all("points") if run is not None else ():
            points[label] = max(points[label], times)
            rehearsals[label] += 1
    chosen = cuts(points, each=each)
    killed: set[Point] = set()
    always = {label for label, _ in chosen if rehearsals[label] == REHEARSALS}
    for _ in range(ATTEMPTS):
        runs = await asyncio.gather(*(told(point) for point in sorted(chosen - killed)))
        assert not failures, "\n\n".join(failures)
        for run in runs:
            if run is not None and run.kill_at is not None and run.killed:
                killed.add(run.kill_at)
            elif run is not None:
                always &= {label for label, _ in run.all("points")}
    return chosen, killed, always


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("kind", "story"), [("prosody", "founder"), ("prosody", "guest"), ("ejabberd", "guest")])
async def test_killed_at_every_write_and_every_stanza(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, story: str
) -> None:
    server = request.getfixturevalue(kind)
    async with stage(server, tmp_path) as scene:
        # Of another server's client the same is true of the second of three.
        chosen, killed, always = await everywhere(lambda point: scene.tell(story, point), each=kind == "prosody")
    labels = {label for label, _ in chosen}
    print(f"\n{kind}, {story}: killed at {len(killed)} of {len(chosen)} points, of {len(labels)} kinds")
    # Every kind that every telling comes to; but what has been handed over is deleted with the next thing that is
    # written, whatever that is.
    assert {label for label, _ in killed} >= {label for label in always if not label.endswith(" inbox")}
    # What is written together, and the fifth of six acknowledgements, say, differ from one telling to the next.
    assert len(killed) >= 0.9 * len(chosen) > 50


def test_where_a_victim_is_killed() -> None:
    kinds = {"store": ("room", 3), "send": ("iq get items", 4)}
    points = Counter(
        {f"{what} {when} {about}": n for what, (about, n) in kinds.items() for when in ("before", "after")}
    )
    begun = {("store before room", 1), ("send before iq get items", 1)}
    assert cuts(points, each=True) == begun | {("store after room", number) for number in (1, 2, 3)}
    assert cuts(points, each=False) == begun | {("store after room", number) for number in (1, 3)}
