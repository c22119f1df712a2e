"""What was decrypted does not go out in clear, whichever of slixmpp's ways is taken."""

from __future__ import annotations

import asyncio
import copy
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from slixmpp import ClientXMPP
from slixmpp.stanza import Message

from slixmpp_mls.errors import SentInClear, UsageError
from slixmpp_mls.rooms.decrypted_message import DecryptedMessage, keep_in

SECRET = "Fair is foul"


def decrypted(xmpp: ClientXMPP) -> Any:
    attributes = {"from": "heath@rooms.example/bob", "type": "groupchat"}
    xml = ET.Element("{jabber:client}message", attributes)
    ET.SubElement(xml, "{jabber:client}body").text = SECRET
    return DecryptedMessage(stream=xmpp, xml=xml)  # type: ignore[no-untyped-call]


async def test_nothing_that_is_derived_from_it_can_be_sent() -> None:
    xmpp = ClientXMPP("alice@a.example", "secret")
    message = decrypted(xmpp)
    assert message["body"] == SECRET
    derived: list[Message] = [
        message,
        message.reply("and foul is fair"),
        message.reply(clear=False),
        message.reply("x").reply("y"),
        copy.copy(message),
        copy.copy(message.reply("z")),
    ]
    assert derived[1]["to"] == "heath@rooms.example"
    assert derived[1]["body"] == "and foul is fair"
    for each in derived:
        with pytest.raises(SentInClear, match=r"encrypted_message\.reply") as caught:
            each.send()
        assert isinstance(caught.value, UsageError)
        assert SECRET not in str(caught.value)
        assert keep_in(each) is None
    assert xmpp.waiting_queue.empty()
    del message["body"]  # it is still a Message that an application may change as it likes
    assert message["body"] == ""


async def test_the_filter_stops_it_at_the_stream_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    xmpp = ClientXMPP("alice@a.example", "secret")
    written: asyncio.Queue[str] = asyncio.Queue()
    xmpp.send_raw = lambda data: written.put_nowait(str(data))  # type: ignore[method-assign]
    xmpp._session_started = True
    xmpp.add_filter("out", keep_in)
    sending = asyncio.create_task(xmpp.run_filters())
    try:
        xmpp.send(decrypted(xmpp))
        xmpp.send(decrypted(xmpp).reply("an answer"))
        plain = xmpp.make_message(mto="carol@c.example", mbody="hello")
        xmpp.send(plain)
        async with asyncio.timeout(60):
            first = await written.get()
    finally:
        sending.cancel()
    assert "hello" in first  # those before it did not go out
    assert written.empty()
    assert "stopped" in caplog.text
    assert SECRET not in caplog.text
