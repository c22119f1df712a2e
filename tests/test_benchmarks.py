"""The parts of the benchmarks of which a wrong figure would say nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rooms.quiet import Confirming

STREAM = (
    b"<message from='a'><body>1 &lt; 2</body><x><message/></x></message><presence from='r/a'/>"
    b"<r xmlns='urn:xmpp:sm:3'/><iq type='result'/><a xmlns='urn:xmpp:sm:3' h='3'/>"
    b"<message><r xmlns='urn:example'/></message><r xmlns='urn:xmpp:sm:3'/>"
)


@given(st.lists(st.integers(1, 40)), st.integers(0, 2**33))
def test_quiet_listeners_confirm_what_they_were_sent(cuts: list[int], before: int) -> None:
    """XEP-0198 4 and 5: stanzas count, nothing else does, however the octets are cut; h wraps at 2^32."""
    sent: list[str] = []
    listener, rest = Confirming(before, sent.append), STREAM
    for cut in cuts:
        listener(rest[:cut])
        rest = rest[cut:]
    listener(rest)
    expected = [f"<a xmlns='urn:xmpp:sm:3' h='{(before + number) % 2**32}'/>" for number in (2, 4)]
    assert sent == expected
