"""Times that others write on messages, and whatever else a message may do to us: reading goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from xml.etree.ElementTree import Element, fromstring

import pytest
import pytest_asyncio

from slixmpp_mls.authentication.automatic_trust import WAITING
from slixmpp_mls.client import Incoming
from slixmpp_mls.client.group import applying
from slixmpp_mls.delivery.archive import _stamp
from slixmpp_mls.rooms import reception
from slixmpp_mls.rooms.content import PROFILE, open_content, seal_body
from slixmpp_mls.rooms.registry import Rooms
from slixmpp_mls.stanza.sce import Envelope
from slixmpp_mls.stanza.trust_message import KeyOwner, TrustMessage
from slixmpp_mls.testing import World

from ..client.people import ALICE, BOB
from .people import Bot, until

SECRET = "Thrice the brinded cat hath mew'd"
FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)


@pytest_asyncio.fixture
async def bob(world: World) -> AsyncIterator[Bot]:
    bot = Bot(world.group(ALICE, BOB)[1])
    yield bot
    bot.rooms.close()


def say(world: World, text: str, *others: Any, when: datetime | None = None) -> None:
    """Alice's own software sends it."""
    data = seal_body(text, ALICE, world.room.jid, float(world.now))
    if when is not None:
        body = Element("{jabber:client}body")
        body.text = text
        data = Envelope((body, *others), ALICE, world.room.jid, when).seal(PROFILE)
    (alice,) = (each for each in world.people if each.account == ALICE)
    world.room.post(alice.group.sending.compose(data), ALICE)
    world.room.deliver_all()


@pytest.mark.parametrize("when", [FIRST, LAST])
async def test_any_time_may_be_on_a_message_with_a_trust_message(world: World, bob: Bot, when: datetime) -> None:
    """XEP-0420: its sender writes it.  It has no bound, and what is kept of it has."""
    await bob.rooms.resume()
    await until(lambda: bob.room.live)
    trust = TrustMessage((KeyOwner(ALICE, (bytes(32),), ()),)).to_lxml()
    say(world, "one", trust, when=when)
    say(world, "two")
    await until(lambda: bob.texts == ["one", "two"])
    assert not bob.failures + bob.got("mls_failed")
    with bob.context.trust.table.open() as keys:
        (waiting,) = [value for _, value in keys.transaction.items(WAITING)]
    assert waiting


async def test_a_message_with_which_our_own_code_fails_ends_nothing(
    world: World, bob: Bot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await bob.rooms.resume()
    await until(lambda: bob.room.live)

    def fail(group: object, received: object, *others: object) -> object:
        content = open_content(group, received, *others)  # type: ignore[arg-type]
        text = content.xml.findtext("{jabber:client}body")
        if text == SECRET:
            raise ZeroDivisionError(text)
        return content

    with monkeypatch.context() as patch:
        patch.setattr(reception, "open_content", fail)
        say(world, SECRET)
        say(world, "two")
        await until(lambda: bob.texts == ["two"])
        (error,) = bob.got("mls_failed")
        assert isinstance(error, ZeroDivisionError)
        assert "ZeroDivisionError" in caplog.text
        assert not [record for record in caplog.records if record.exc_info or SECRET in record.getMessage()]
    bob.rooms.close()
    again = Rooms(bob.context)  # it does not come back at the next start
    await again.resume()
    assert bob.texts == ["two"]
    assert len(bob.got("mls_failed")) == 1
    again.close()


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-11-30T12:00:00Z", datetime(2026, 11, 30, 12, tzinfo=UTC)),
        ("2026-11-30T12:00:00.5+02:00", datetime(2026, 11, 30, 10, 0, 0, 500_000, UTC)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("9998-12-31T23:59:59Z", datetime(9998, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("1969-12-31T23:59:59Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59.999999Z", None),
        ("9999-12-31T23:59:59-14:00", None),
        ("yesterday", None),
    ],
)
def test_the_times_of_an_archive(written: str, read: datetime | None) -> None:
    """XEP-0313: the room's server writes them."""
    delay = f"<delay xmlns='urn:xmpp:delay' stamp='{written}'/>"
    stamp = _stamp(fromstring(f"<forwarded xmlns='urn:xmpp:forward:0'>{delay}</forwarded>"))
    assert stamp == read
    if stamp is not None:
        assert datetime.fromtimestamp(stamp.timestamp(), UTC).year == stamp.year


def test_a_time_before_1970_has_no_number_in_the_store() -> None:
    assert applying._when(Incoming("1", (), stamp=-5.0), 7) == 0
    assert applying._when(Incoming("1", ()), 7) == 7
