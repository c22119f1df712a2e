"""Work that is done in the background, in tasks from which no exception is lost.

An exception that ends a task is logged and reported once.  The exceptions are those that the caller of
:meth:`Tasks.spawn` names as *passing*: the work is done again later by itself, so that they are logged only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from ..errors import Disconnected, MLSError, NoAnswer

__all__ = ["UNREACHABLE", "Tasks"]

log = logging.getLogger(__name__)

UNREACHABLE: tuple[type[Exception], ...] = (Disconnected, NoAnswer)
"""What ends work that every new session begins again: the server cannot be reached now."""


class Tasks:
    """The background tasks of a client, or of one of its rooms.

    :param report: called once with each exception that ends a task, but for those that pass
    :param owner: for the names of tasks and for the log
    """

    def __init__(self, report: Callable[[Exception], None], owner: str = "mls") -> None:
        self._report = report
        self._owner = owner
        self._running: set[asyncio.Task[None]] = set()

    def of(self, owner: str) -> Tasks:
        """Tasks that report to the same place and are cancelled on their own.

        :param owner: such as a room's bare JID
        """
        return Tasks(self._report, f"{self._owner} {owner}")

    def spawn(
        self, work: Coroutine[Any, Any, object], name: str, *, passing: tuple[type[Exception], ...] = ()
    ) -> asyncio.Task[None]:
        """Begin work in the background.

        :param name: says what the work is, in the log: "replenishing KeyPackages"
        :param passing: exceptions after which the work is done again by itself; these are not reported
        """

        async def guarded() -> None:
            try:
                await work
            except passing as error:
                log.info("%s: %s is put off: %s", self._owner, name, error)
            except MLSError as error:
                log.warning("%s: %s has failed: %s", self._owner, name, error)
                self._report(error)
            except Exception as error:
                log.exception("%s: %s has failed", self._owner, name)
                self._report(error)

        task = asyncio.create_task(guarded(), name=f"{self._owner}: {name}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: work.close())  # a task that is cancelled before it begins never awaits it
        return task

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cancel all tasks but the one that calls this.

        :returns: the cancelled tasks, to be awaited
        """
        current = asyncio.current_task() if _loop_is_running() else None
        tasks = [task for task in self._running if task is not current]
        for task in tasks:
            task.cancel()
        return tasks


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
