"""What an engine's parts share: of the errors that end work beside the reading, only those pass that the room shows."""

from __future__ import annotations

import pytest

from slixmpp_mls.errors import NotPermitted, Replayed, StoreError, StoreFull, UsageError

from ..client.people import three
from .people import Parts, until


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (StoreError("says the test"), True),
        (StoreFull("says the test"), True),
        (ZeroDivisionError("says the test"), True),
        (NotPermitted("says the test"), False),
        (Replayed("says the test"), False),
        (UsageError("says the test"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_a_store_that_fails_beside_the_reading_is_reported(error: Exception, reported: bool) -> None:
    _, person, _, _ = three()
    alice = Parts(person)

    async def fail() -> None:
        raise error

    task = alice.parts.spawn(fail(), "failing")
    await until(task.done)
    assert task.exception() is None
    assert (alice.failures == [error]) is reported
