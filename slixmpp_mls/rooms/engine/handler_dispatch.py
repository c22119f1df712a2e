"""Dispatches messages to the application's handlers, so that none is lost with the process.

A message that has been read stays in the store (:mod:`slixmpp_mls.client.storage.inbox`) until the application's
handlers are done with it: plain handlers have returned; coroutine handlers, and tasks that plain handlers begin at
once, have ended.  A raising handler counts as done; otherwise a message it cannot handle would be redelivered forever.
A cancelled handler does not count as done: all are cancelled at the end of a program.

The handlers of different messages begin in the room's order.  A message does not wait until the handlers of the one
before have ended; otherwise a handler that waits for the room would wait forever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from slixmpp import ClientXMPP

from ...client import RoomGroup
from ...errors import StoreError, UsageError

__all__ = ["HandledMessages", "dispatch"]

_FORGET = 1.0  # seconds, until a handled message is deleted if nothing else is written


def dispatch(xmpp: ClientXMPP, name: str, data: object, done: Callable[[], None]) -> None:
    """Fire an event of slixmpp's, and call `done` once its handlers are done.

    :param done: not called if a handler is cancelled
    """
    begun = _fire(xmpp, name, data)
    waiting = len(begun)

    def ended(task: asyncio.Future[Any]) -> None:
        nonlocal waiting
        waiting -= not task.cancelled()
        if not waiting:
            done()

    for task in begun:
        task.add_done_callback(ended)
    if not begun:
        done()


def _fire(xmpp: ClientXMPP, name: str, data: object) -> list[asyncio.Future[Any]]:
    """Fire an event; return the tasks that it created.

    slixmpp wraps coroutine handlers into tasks and keeps no reference, so the task factory records them.
    """
    loop = asyncio.get_running_loop()
    usual = loop.get_task_factory()
    made: list[asyncio.Future[Any]] = []

    def noting(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any) -> Any:
        make = usual or _task
        task = make(loop, coroutine, **options)
        made.append(task)
        return task

    loop.set_task_factory(noting)  # type: ignore[arg-type]  # its signature grows with Python's
    try:
        xmpp.event(name, data)
    finally:
        loop.set_task_factory(usual)
    return made


def _task(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coroutine, loop=loop, **options)


class HandledMessages:
    """The messages of one room that the application is done with.

    The store deletes them with its next step, or soon if none follows.

    :param fire: fires an event of slixmpp's
    """

    def __init__(self, group: RoomGroup, fire: Callable[[str, object], None]) -> None:
        self._group = group
        self._fire = fire
        self._timer: asyncio.TimerHandle | None = None

    def note(self, number: bytes) -> None:
        """Record that the application is done with a message.

        :param number: :attr:`MessageReceived.number`
        """
        self._group.room_state.handed_over(number)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FORGET, self._forget)

    def close(self) -> None:
        """Delete them from the store now."""
        if self._timer is not None:
            self._timer.cancel()
            self._forget()

    def _forget(self) -> None:
        self._timer = None
        try:
            self._group.room_state.forget_handed_over()
        except UsageError:
            pass  # the store is closed: it is dispatched again at the next start
        except StoreError as error:
            self._fire("mls_store_failed", error)
