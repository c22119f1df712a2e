"""The profile of XEP-0420 for this protocol: the elements inside the ciphertext, and those that may be outside it.

Groupchat messages carry all four affixes.  `from` is the sender's bare JID and must be the account of the leaf; `to` is
the room's, so that no message can be moved to another room; `time` is the time of sending; `rpad` is padding (MLS adds
its own).  A fifth, `epochs`, is there from time to time (:mod:`slixmpp_mls.rooms.epoch_code`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .elements import NS
from .sce import Affix, Profile, may_stand_outside

__all__ = ["EPOCHS", "PROFILE", "says_something_in_clear"]

EPOCHS = "urn:xmpp:mls:epochs:0"
"""Namespace of the affix that says which epochs the sender has been in."""

PROFILE = Profile(
    frozenset(Affix),
    protocol=frozenset({NS}),
    affixes=frozenset({f"{{{EPOCHS}}}epochs"}),
    minimum_size=0,
    random_padding=32,
)
"""`rpad` is short: MLS pads the whole envelope in steps."""


def says_something_in_clear(stanza: Iterable[Any]) -> bool:
    """Whether a stanza has children that must not be outside the ciphertext."""
    return not all(may_stand_outside(child, PROFILE) for child in stanza)
