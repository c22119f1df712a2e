"""The parts of the benchmarks of which a wrong figure would say nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.large.growth import Growth, slope
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


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5, 2.0])
def test_a_power_of_the_size_has_its_exponent_as_slope(exponent: float) -> None:
    assert slope({n: 3e-4 * n**exponent for n in (500, 1000, 3000, 9000)}) == pytest.approx(exponent)


def test_an_operation_that_grows_faster_than_the_group_fails() -> None:
    assert not Growth("quadratic", {n: 1e-6 * n**2 for n in (500, 1000, 2000)}).passes
    assert Growth("linear, and a constant", {n: 0.1 + 1e-4 * n for n in (500, 1000, 2000)}).passes
    assert Growth("too fast to tell", {n: 1e-9 * n**2 for n in (500, 1000, 2000)}).slope is None
