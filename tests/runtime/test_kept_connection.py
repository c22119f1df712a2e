"""The end of a connection: what has begun is brought to its end before the store is closed."""

from __future__ import annotations

import asyncio

import pytest
from slixmpp import ClientXMPP

from slixmpp_mls.runtime.connection import KeptConnection


class Plugins:
    """The plugins of a client, as far as the end of its connection uses them."""

    def __init__(self, ended: list[str]) -> None:
        self._ended = ended

    def __contains__(self, name: str) -> bool:
        return name == "mls"

    def disable(self, name: str) -> None:
        self._ended.append(name)


async def test_a_handler_that_waits_for_nothing_more_ends_before_the_store_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its answer is in the store; the message would be handed to it again, and answered twice."""
    bot, ended = ClientXMPP("bot@a.example", "secret"), list[str]()
    kept = KeptConnection(bot, presence=True, in_session=True)
    monkeypatch.setattr(bot, "plugin", Plugins(ended))

    async def handler() -> None:
        for _ in range(6):  # the turns of the event loop that an answer takes when the stream is gone
            await asyncio.sleep(0)
        ended.append("handler")

    handling = asyncio.create_task(handler())
    await kept.close()
    await handling
    assert ended == ["handler", "mls"]
