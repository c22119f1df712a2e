"""The profile of XEP-0420 for this protocol: what stands inside of the ciphertext, and what may stand beside it.

Groupchat messages carry all four affixes.  `from` is the sender's bare JID and must be the account of the leaf; `to` is
the room's, so that no message can be moved to another room; `time` is when it was sent; `rpad` pads (MLS pads once
more, by its own means).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .elements import NS
from .sce import Affix, Profile, may_stand_outside

__all__ = ["PROFILE", "says_something_in_clear"]

PROFILE = Profile(frozenset(Affix), protocol=frozenset({NS}), minimum_size=0, random_padding=32)
"""`rpad` is short: MLS pads the whole envelope in steps."""


def says_something_in_clear(stanza: Iterable[Any]) -> bool:
    """Whether a stanza has children that may not stand in clear beside the ciphertext."""
    return not all(may_stand_outside(child, PROFILE) for child in stanza)
