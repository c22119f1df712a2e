"""Have all members been shown the same room?  What two of them compare to find out.

A server that puts the Commits of a room into different orders for different members splits the group:
each part goes on by itself, and neither can read the other.  Inside the room nobody can tell this from silence,
so the comparison takes another way: two people read digits to each other, or two programs exchange them.

What is compared comes from the epoch_authenticator (RFC 9420 8.7), which two members have in common exactly if they
agree on the group's whole history.  :func:`epoch_code` makes of it 40 decimal digits, by the rule of the XEP's
"Comparing Epochs": 133 bits, so that not even a member who helps the server finds two histories with one
code.  They are not secret, and say nothing about other epochs; the epoch's number goes with them, since members that
are merely not up to date have different codes, too.
"""

from __future__ import annotations

import hmac
import re
from enum import Enum
from hashlib import sha256

from ..errors import UsageError

__all__ = ["EpochComparison", "compare_epochs", "epoch_code", "read_epoch_code"]

_LABEL = b"urn:xmpp:mls:0 epoch code"
_GROUP = 5
_DIGITS = 40
# For people, who type and dictate: any separators between the digits, and the epoch in front.
_CODE = re.compile(r"\s*(\d{1,20})\s*:\s*((?:\d[\s.\-]*){40})", re.ASCII)


class EpochComparison(Enum):
    """What a comparison tells."""

    SAME = "same"
    """Both are in the same epoch of the same group, with the same history."""
    DIFFERENT_EPOCH = "different epoch"
    """One has read further than the other: compare again when both have read the room to its end."""
    SPLIT = "split"
    """Both are in the same epoch, and it is not the same: they have been shown different rooms."""


def epoch_code(epoch: int, authenticator: bytes) -> str:
    """The code of an epoch, for people: ``7: 12345 67890 ...``, eight groups of five digits.

    :param authenticator: the epoch_authenticator (RFC 9420 8.7)
    """
    digits = f"{int.from_bytes(sha256(_LABEL + authenticator).digest(), 'big') % 10**_DIGITS:0{_DIGITS}}"
    return f"{epoch}: " + " ".join(digits[start : start + _GROUP] for start in range(0, _DIGITS, _GROUP))


def read_epoch_code(text: str) -> tuple[int, str]:
    """The epoch and the digits of a code that somebody has typed or sent.

    :raises UsageError: it is none
    """
    found = _CODE.fullmatch(text)
    if found is None:
        raise UsageError(f"not the code of an epoch: a number, a colon, and {_DIGITS} digits")
    return int(found[1]), "".join(filter(str.isdigit, found[2]))


def compare_epochs(ours: str, theirs: str) -> EpochComparison:
    """Compare two codes, in constant time.

    :raises UsageError: one of them is none
    """
    (own_epoch, own), (epoch, digits) = read_epoch_code(ours), read_epoch_code(theirs)
    if epoch != own_epoch:
        return EpochComparison.DIFFERENT_EPOCH
    return EpochComparison.SAME if hmac.compare_digest(own, digits) else EpochComparison.SPLIT
