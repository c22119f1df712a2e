"""Batches writes made in one event-loop turn into a single transaction.

::

    do(step) ─┐
    do(step) ─┼── the event loop's next turn ──► one transaction ──► each caller goes on
    do(step) ─┘

A program that sends ten messages at once waits for one write, not for ten in sequence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

from ...client import RoomGroup
from ...errors import MLSError, StoreError

__all__ = ["WriteBatcher"]

T = TypeVar("T")


class WriteBatcher:
    """Batches the steps of one room's group."""

    def __init__(self, group: RoomGroup) -> None:
        self._group = group
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []

    async def do(self, step: Callable[[], T]) -> T:
        """Call `step` soon, together with other steps; its writes are on the disk when this returns.

        :param step: writes once, at its end; raises before that, or because of the store
        :raises StoreError: neither this step nor any of the others has been written
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._waiting.append((step, answer))
        if len(self._waiting) == 1:
            loop.call_soon(self._write)
        return await answer

    def _write(self) -> None:
        waiting = [(step, answer) for step, answer in self._waiting if not answer.done()]  # else cancelled
        self._waiting = []
        outcomes: list[tuple[asyncio.Future[Any], Any, MLSError | None]] = []
        try:
            with self._group.room_state.together(lasting=True) if len(waiting) > 1 else nullcontext():
                for step, answer in waiting:
                    try:
                        outcomes.append((answer, step(), None))
                    except StoreError:
                        raise
                    except MLSError as error:  # of this step only
                        outcomes.append((answer, None, error))
        except Exception as error:
            for _, answer in waiting:
                answer.set_exception(error)
            return
        for answer, value, refusal in outcomes:
            if refusal is None:
                answer.set_result(value)
            else:
                answer.set_exception(refusal)
