"""The time of an entity's clock (XEP-0202)."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ..errors import MalformedError
from ..stanza.xml import read_datetime
from .stream import Stream

__all__ = ["entity_time"]

_TIME = "urn:xmpp:time"


async def entity_time(stream: Stream, address: str) -> float:
    """Ask an entity for its time, in seconds since the Unix epoch.  Servers answer in whole seconds.

    :raises MalformedError: the answer is no time
    :raises DeliveryError: it does not answer, or does not say
    """
    answer = await stream.ask("get", address, Element(f"{{{_TIME}}}time"))
    text = (answer.findtext(f"{{{_TIME}}}time/{{{_TIME}}}utc") or "").strip()
    try:
        return read_datetime(text).timestamp()  # XEP-0202 4: in the format of XEP-0082
    except ValueError as error:
        raise MalformedError(f"an answer without a time: {error}", "XEP-0202 4") from None
