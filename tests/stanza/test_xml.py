"""What is common to all that reads and writes XML, where no other test covers it."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree as ET

import pytest
from slixmpp.xmlstream import tostring

from slixmpp_mls.errors import MalformedError
from slixmpp_mls.stanza.xml import MAX_ATTRIBUTES, MAX_DEPTH, MAX_ELEMENTS, parse_xml, written_size

CLIENT = "jabber:client"


@pytest.mark.parametrize(
    "document",
    [
        "<message xmlns='jabber:client' to='a@b.example' xml:lang='en' type='groupchat'/>",
        "<message xmlns='jabber:client'><body>&amp; \"foul\" &lt;&gt; isn't 🧙</body><x xmlns='other:x'/></message>",
        "<message xmlns='jabber:client' id='&quot;&apos;'><a xmlns='x:y'>1<b>2</b> &amp; <c xmlns='z'/></a></message>",
        f"<message xmlns='jabber:client'><commit xmlns='urn:xmpp:mls:0' epoch='7'>{'QUJD' * 1000}</commit></message>",
        "<message xmlns='jabber:client'><a xmlns='x'></a>\n<a xmlns='x'> </a></message>",
        "<iq xmlns='jabber:server'/>",
    ],
)
def test_the_size_is_that_of_what_slixmpp_writes(document: str) -> None:
    element = ET.fromstring(document)
    assert written_size(element, CLIENT) == len(tostring(element, xmlns=CLIENT).encode())


def of_depth(levels: int) -> str:
    return "<a>" * levels + "</a>" * levels


def of_elements(count: int) -> str:
    return "<a>" + "<b/>" * (count - 1) + "</a>"


def of_attributes(count: int) -> str:
    return "<a><b " + " ".join(f"x{number}=''" for number in range(count)) + "/></a>"


@pytest.mark.parametrize(
    ("make", "most"), [(of_depth, MAX_DEPTH), (of_elements, MAX_ELEMENTS), (of_attributes, MAX_ATTRIBUTES)]
)
def test_depth_elements_and_attributes_have_a_bound(make: Callable[[int], str], most: int) -> None:
    assert parse_xml(make(most).encode(), 1 << 18).tag == "a"
    for count in (most + 1, 2 * most):
        with pytest.raises(MalformedError, match=f"over {most}"):
            parse_xml(make(count).encode(), 1 << 18)
