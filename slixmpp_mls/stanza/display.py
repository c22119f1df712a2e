"""Text of peers, as it is shown to people.

Every script of the world's writing stays: joiners (Persian, Indic scripts, emoji), variation selectors, directional
marks, tags of flags.  What does not stay are characters that do something to the reader's screen or to the text around
them: controls, embeddings and overrides of the direction of writing (which make "gpj.exe" out of "exe.jpg"), line and
paragraph separators, and characters that XML does not allow.
"""

from __future__ import annotations

import unicodedata
from typing import Final

__all__ = ["displayable"]

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
