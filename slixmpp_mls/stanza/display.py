"""Text and times of peers, as they are shown to people.

Every script of the world's writing stays: joiners (Persian, Indic scripts, emoji), variation selectors, directional
marks, tags of flags.  Removed are characters that do something to the reader's screen or to the text around them:
controls, embeddings and overrides of the direction of writing (which make "gpj.exe" out of "exe.jpg"), line and
paragraph separators, and characters that XML does not allow.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Final

__all__ = ["displayable", "local_time"]

REPLACEMENT: Final = "\ufffd"
_CATEGORIES: Final = frozenset({"Cc", "Zl", "Zp", "Cs"})
_CHARACTERS: Final = frozenset([
    *map(chr, range(0x202A, 0x202F)),  # embeddings and overrides (UAX #9, 2.1, 2.2)
    *map(chr, range(0x2066, 0x2070)),  # isolates (2.4), and deprecated characters of the same kind
    *map(chr, range(0xFFF9, 0xFFFC)),  # interlinear annotation hides text
    "\U000e0001",  # deprecated: language tag
    "\ufeff", "\ufffe", "\uffff",
])  # fmt: skip


def displayable(text: str) -> str:
    """The text with U+FFFD in the place of each character that must not reach a screen; line feeds and tabs stay."""
    return "".join(
        REPLACEMENT if one in _CHARACTERS or (one not in "\n\t" and unicodedata.category(one) in _CATEGORIES) else one
        for one in text
    )


def local_time(moment: datetime | None) -> datetime:
    """A moment that a peer names, in the time zone of this machine; now, if it names none.

    In UTC if the zone has no such moment: some zones lack the first or the last hours of :class:`datetime.datetime`.
    """
    try:
        return (moment or datetime.now(UTC)).astimezone()
    except (OverflowError, ValueError, OSError):
        return (moment or datetime.now(UTC)).astimezone(UTC)
