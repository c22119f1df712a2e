"""Texts of peers on our screens."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slixmpp_mls.stanza.display import displayable, local_time


@pytest.mark.parametrize(
    "text",
    [
        "Fair is foul\n\tand foul is fair",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian with a non-joiner
        "\u0915\u094d\u200d\u0937",  # Devanagari with a joiner
        "\U0001f469\u200d\U0001f52c \u2764\ufe0f",
        "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
        "\u8fbb\U000e0100",  # an ideographic variation
        "\u0e2a\u0e27\u200b\u0e31\u0e2a",  # Thai with a place to break
        "\u05d0\u200f!",  # a directional mark
        "\u1820\u180e\u1820",  # Mongolian with a vowel separator
    ],
)
def test_every_script_stays(text: str) -> None:
    assert displayable(text) == text


@pytest.mark.parametrize(
    "code", [0x00, 0x07, 0x0D, 0x1B, 0x7F, 0x85, 0x9B, 0x2028, 0x2029, 0x202A, 0x202E, 0x2066, 0x2069, 0x206F, 0xFFF9,
             0xFEFF, 0xFFFE, 0xE0001, 0xD800]
)  # fmt: skip
def test_controls_and_overrides_do_not(code: int) -> None:
    assert displayable(f"a{chr(code)}b") == "a\ufffdb"


@given(st.text(st.characters()))
def test_a_text_keeps_its_length_and_stays_the_same_when_shown_again(text: str) -> None:
    shown = displayable(text)
    assert len(shown) == len(text)
    assert displayable(shown) == shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Niue"])
@pytest.mark.parametrize("moment", [datetime.min, datetime(2026, 11, 30, 12), datetime.max])
def test_moments_that_the_zone_of_this_machine_does_not_have(
    moment: datetime, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member writes them on its messages (XEP-0420): the ends of the calendar are in some zones only."""
    moment = moment.replace(tzinfo=UTC)
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert local_time(moment) == moment
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_message_without_a_time_is_shown_with_the_present_one() -> None:
    assert abs((local_time(None) - datetime.now(UTC)).total_seconds()) < 60
