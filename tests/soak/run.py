"""The run, and what must be true in the end."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.rooms.process import Process
from slixmpp_mls.devserver import DevServer

__all__ = ["Figures", "Soak", "SoakFailed", "compare"]

_PROGRAM = "tests.soak.bot"
_PATIENCE = 120.0  # seconds for one thing that is to be done; what takes longer is given up, and counted
_PEACE = 300.0  # seconds in which all must come to agree once nothing disturbs them any more
_WEIGHTS = {"say": 60, "update": 8, "join": 25, "leave": 3, "remove": 3, "kill": 8, "cut": 8, "stop": 2}
_SERVER_EVERY = 60.0  # seconds between two restarts of the server, about


_Heard = tuple[str, str, str, int]  # its id in the archive, its text, its sender, its epoch


class SoakFailed(AssertionError):
    """The members do not agree."""


@dataclass
class Figures:
    """What has happened.

    :ivar done: how often each thing was done; with `` (in vain)`` what has failed, for whatever reason
    :ivar events: of the bots, those of killed processes excluded
    :ivar complaints: what the bots reported that should not happen
    :ivar epoch: in the end
    :ivar members: in the end
    :ivar messages: accepted from members
    :ivar peace: seconds until all agreed, after nothing disturbed them any more
    """

    done: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    epoch: int = 0
    members: int = 0
    messages: int = 0
    peace: float = 0.0


class _Person:
    """One bot and its files."""

    def __init__(self, server: DevServer, account: str, folder: Path) -> None:
        self.account = account
        self.process = Process(_PROGRAM)
        self.path = folder / f"{account.partition('@')[0]}.heard"
        self.accepted: list[str] = []
        self.always = True  # a member since it has come
        self.down_until: float | None = None
        self._login = {
            "jid": account,
            "password": server.accounts[account],
            "host": server.host,
            "port": server.port,
            "ca_file": str(server.ca_file),
            "store": str(folder / f"{account.partition('@')[0]}.db"),
            "heard": str(self.path),
        }

    async def start(self) -> None:
        self.down_until = None
        if self.process.running:
            return
        await self.process.start()
        await self.do("start", **self._login)

    async def do(self, name: str, **arguments: Any) -> Any:
        async with asyncio.timeout(_PATIENCE):
            return await self.process.call(0, name, **arguments)

    def notes(self) -> list[dict[str, Any]]:
        lines = self.path.read_text().splitlines()
        found = []
        for line in lines:
            with suppress(ValueError):  # a line that was cut by the end of the process
                found.append(json.loads(line))
        return found


class Soak:
    """One run.

    :param folder: for stores and notes; kept for who wants to look
    """

    def __init__(self, server: DevServer, folder: Path, *, people: int, seed: int, say: Callable[[str], None]) -> None:
        self.server = server
        self.folder = folder
        self.figures = Figures()
        self._random = random.Random(seed)
        self._count = people
        self._say = say
        self._room = f"soak-{uuid.uuid4().hex[:8]}@{server.rooms}"
        self._people: list[_Person] = []
        self._inside: set[str] = set()  # who should be, when nothing fails
        self._busy: set[str] = set()
        self._between: set[str] = set()  # lives
        self._doing: set[asyncio.Task[None]] = set()
        self._number = 0
        self._acts: dict[str, Callable[[_Person], Any]] = {
            "say": self._talk,
            "update": self._update,
            "join": self._join,
            "leave": self._leave,
            "remove": self._remove,
            "kill": self._kill,
            "cut": self._cut,
            "stop": self._stop,
        }

    async def run(self, seconds: float, at_least: Mapping[str, int] = MappingProxyType({})) -> Figures:
        """All of it.

        :param seconds: of disturbance
        :param at_least: it goes on until each of these has been done so often, too
        :raises SoakFailed: something is not as it must be in the end
        """
        try:
            await self._begin()
            await self._disturb(seconds, at_least)
            await self._settle()
        finally:
            await asyncio.gather(*(person.process.kill() for person in self._people))
        self._judge()
        return self.figures

    # --- acts ----------------------------------------------------------------------------------

    async def _begin(self) -> None:
        for number in range(self._count):
            jid = await self.server.register(f"s{number}-{uuid.uuid4().hex[:6]}", uuid.uuid4().hex)
            self._people.append(_Person(self.server, jid.bare, self.folder))
        await asyncio.gather(*(person.start() for person in self._people))
        await asyncio.gather(*(person.do("ready") for person in self._people))
        owner, *others = self._people
        async with asyncio.timeout(_PATIENCE):
            await owner.do("create", room=self._room)
            self._inside.add(owner.account)
            for person in others:
                while person.account not in self._inside:
                    with suppress(RuntimeError):  # on a busy machine a server may answer too late
                        await self._join(person)

    async def _disturb(self, seconds: float, at_least: Mapping[str, int]) -> None:
        end = time.monotonic() + seconds
        every = min(_SERVER_EVERY, seconds / 2)
        server_at = time.monotonic() + every * self._random.uniform(0.3, 0.7)
        names, weights = list(_WEIGHTS), list(_WEIGHTS.values())
        while (now := time.monotonic()) < end or any(self.figures.done[name] < n for name, n in at_least.items()):
            await asyncio.sleep(self._random.uniform(0.02, 0.3))
            for person in self._people:
                if person.down_until is not None and person.down_until < now:
                    person.down_until = None
                    self._background(_Person.start, "start", person)
            if now > server_at:
                server_at = now + every * self._random.uniform(0.7, 1.3)
                await self._trouble_the_server()
            name = self._random.choices(names, weights)[0]
            person = self._random.choice(self._people)
            self._background(self._acts[name], name, person)
        self._say("peace")

    def _background(self, act: Callable[[_Person], Any], name: str, person: _Person) -> None:
        """Do it, unless they are at something else, which only the end of a process may interrupt; it may well fail."""
        doing = self._between if name in ("kill", "stop", "start") else self._busy
        if person.account in doing | self._between or person.down_until is not None:
            return

        async def guarded() -> None:
            doing.add(person.account)
            try:
                if await act(person) is not False:
                    self.figures.done[name] += 1
            except (RuntimeError, TimeoutError, ProcessLookupError, ConnectionError) as error:
                self.figures.done[f"{name} (in vain)"] += 1
                self._say(f"{person.account}: {name}: {str(error) or type(error).__name__}")
            finally:
                doing.discard(person.account)

        task = asyncio.create_task(guarded())
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)

    async def _trouble_the_server(self) -> None:
        kind = self._random.choice(["restart", "kill"])
        self._say(f"server: {kind}")
        self.figures.done[f"server: {kind}"] += 1
        if kind == "restart":
            await self.server.restart()
        else:
            await self.server.kill()
            await self.server.start()

    async def _talk(self, person: _Person) -> bool:
        if person.account not in self._inside:
            return False
        self._number += 1
        text = f"{self._number} of {person.account}"
        await person.do("say", room=self._room, text=text)
        person.accepted.append(text)
        return True

    async def _join(self, person: _Person) -> bool:
        if person.account in self._inside:
            return False
        failed = await self._people[0].do("add", room=self._room, account=person.account)
        if failed and not any("in the group" in reason for reason in failed.values()):
            raise RuntimeError(f"not added: {failed}")
        self._inside.add(person.account)
        return True

    async def _leave(self, person: _Person) -> bool:
        if not self._may_go(person):
            return False
        person.always = False
        self._inside.discard(person.account)
        await person.do("leave", room=self._room)
        return True

    async def _remove(self, person: _Person) -> bool:
        if not self._may_go(person):
            return False
        person.always = False
        self._inside.discard(person.account)
        await self._people[0].do("remove", room=self._room, account=person.account)
        return True

    def _may_go(self, person: _Person) -> bool:
        return person is not self._people[0] and person.account in self._inside and len(self._inside) > 3

    async def _update(self, person: _Person) -> bool:
        if person.account not in self._inside:
            return False
        await person.do("update", room=self._room)
        return True

    async def _kill(self, person: _Person) -> None:
        pause = self._random.choice([0.0, 1.0, 5.0, 20.0]) * self._random.random()
        await person.process.kill()
        person.down_until = time.monotonic() + pause

    async def _stop(self, person: _Person) -> None:
        pause = 3 * self._random.random()
        await person.process.end()
        person.down_until = time.monotonic() + pause

    async def _cut(self, person: _Person) -> None:
        await person.do("cut")

    # --- the end -------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Everybody comes back; who should be in the group and is not is added again; then all must agree."""
        if self._doing:
            await asyncio.wait(self._doing, timeout=_PATIENCE)
        for person in self._people:
            if person.down_until is not None or not person.process.running:
                await person.start()
        begun = time.monotonic()
        states: list[dict[str, Any]] = []
        while time.monotonic() - begun < _PEACE:
            await asyncio.sleep(0.5)
            states = await asyncio.gather(*(person.do("state", room=self._room) for person in self._people))
            if _agreed(states):
                break
        else:
            for person in self._people:
                person.path.with_suffix(".tasks").write_text("\n".join(await person.do("tasks")))
            raise SoakFailed(f"no agreement after {_PEACE:.0f} s of peace: {_without_counts(states)}")
        self.figures.peace = time.monotonic() - begun
        self.figures.epoch = max(state["epoch"] for state in states if state["member"])
        self.figures.members = sum(state["member"] for state in states)
        self.figures.messages = sum(len(person.accepted) for person in self._people)
        for state in states:
            self.figures.events.update(state["counts"])
        self._members = {person.account for person, state in zip(self._people, states, strict=True) if state["member"]}
        await asyncio.sleep(1.0)  # handlers' last lines

    def _judge(self) -> None:
        notes = {person.account: person.notes() for person in self._people}
        for account, lines in notes.items():
            self.figures.complaints += [f"{account}: {line['complaint']}" for line in lines if "complaint" in line]
        problems = compare({account: notes[account] for account in self._members})
        for person in self._people:
            if person.always:
                problems += self._lost(person, notes)
        if problems:
            raise SoakFailed("\n".join(problems[:20]))

    def _lost(self, person: _Person, notes: dict[str, list[dict[str, Any]]]) -> list[str]:
        """What somebody who was never out has said must have come to everybody who was never out.

        Not to those, however, who had only just been added, when the sender had not read that yet.
        """
        problems = []
        epochs = {line["text"]: line["epoch"] for lines in notes.values() for line in lines if "text" in line}
        for other in self._people:
            if other is person or not other.always or other.account not in self._members:
                continue
            lines = notes[other.account]
            heard, since = {line["text"] for line in lines if "text" in line}, _joined_in(lines)
            missing = [text for text in person.accepted if text not in heard and epochs.get(text, since) >= since]
            problems += [f"{other.account} has not heard {text!r}" for text in missing]
        return problems


def _agreed(states: list[dict[str, Any]]) -> bool:
    members = [state for state in states if state["member"]]
    return (
        bool(members)
        and all(state["live"] and not state["waiting"] for state in members)
        and len({(state["epoch"], state["authenticator"], tuple(state["accounts"])) for state in members}) == 1
        and len(members[0]["accounts"]) == len(members)
    )


def _without_counts(states: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in state.items() if name not in ("counts", "accounts")} for state in states]


def compare(notes: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What contradicts what in the notes of several members; nothing, if all is well.

    Each has heard everything once (or again, and said so), and two who were in the group at the same time have heard
    the same of all others, in the same order.  A message of an epoch before somebody's first one may come after the
    Commit that has added him; he cannot read it, since a Welcome has the secrets of
    its own epoch (RFC 9420 12.4.3.1).

    :param notes: by account: ``{"id": ..., "text": ..., "by": ..., "epoch": ..., "again": ...}`` for a message,
        ``{"joined": ...}`` with the epoch when somebody has come into the group
    """
    problems: list[str] = []
    heard: dict[str, list[_Heard]] = {}
    for account, lines in notes.items():
        seen: set[str] = set()
        current: list[_Heard] = []
        texts: Counter[str] = Counter()
        for line in lines:
            if "joined" in line:
                current = []
            if "text" not in line:
                continue
            if line["id"] in seen:
                if not line["again"]:
                    problems.append(f"{account} has heard {line['text']!r} twice")
                continue
            seen.add(line["id"])
            texts[line["text"]] += 1
            current.append((line["id"], line["text"], line["by"], line["epoch"]))
        problems += [f"{account} has heard {text!r} in two stanzas" for text, times in texts.items() if times > 1]
        heard[account] = current
    for one, other in combinations(heard, 2):
        since = max(_joined_in(notes[one]), _joined_in(notes[other]))
        mine, theirs = (
            [each for each in heard[who] if each[2] not in (one, other) and each[3] >= since] for who in (one, other)
        )
        common = {each[0] for each in mine} & {each[0] for each in theirs}
        # Who has come later has heard less at the beginning, and only there.
        mine, theirs = (_from_first(each, common) for each in (mine, theirs))
        if mine != theirs:
            at = next((n for n, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]), None)
            where = f"at {mine[at]} and {theirs[at]}" if at is not None else f"{len(mine)} and {len(theirs)} messages"
            problems.append(f"{one} and {other} have not heard the same: {where}")
    return problems


def _joined_in(lines: list[dict[str, Any]]) -> int:
    """The epoch in which somebody has come into the group, the last time; 0 for its creator."""
    return max((line["joined"] for line in lines if "joined" in line), default=0)


def _from_first(messages: list[_Heard], common: set[str]) -> list[_Heard]:
    start = next((n for n, message in enumerate(messages) if message[0] in common), len(messages))
    return messages[start:]
