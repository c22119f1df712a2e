"""Have all members been shown the same room?  What two of them compare to find out.

A server that puts the Commits of a room into different orders for different members splits the group:
each part goes on by itself, and neither can read the other.  Inside the room nobody can tell this from silence,
so the comparison takes another way: two people read digits to each other, or two programs exchange them.

What is compared comes from the epoch_authenticator (RFC 9420 8.7), which two members have in common exactly if they
agree on the group's whole history.  :func:`epoch_code` makes of it 40 decimal digits, by the rule of the XEP's
"Comparing Epochs": 133 bits, so that not even a member who helps the server finds two histories with one
code.  They are not secret, and say nothing about other epochs; the epoch's number goes with them, since members that
are merely not up to date have different codes, too.

*What members find out by themselves.*  Whoever can read a message has the keys of its epoch, and with them its sender's
history: a code of the present epoch inside of the message would say nothing.  But the two parts of a split group can
meet again: the server leads a member of one part into the other (it seems to have missed a Commit, and returns), and
everything looks as before.  So messages carry, from time to time, the codes of the epochs that their sender has been in
(:class:`EpochHistory`).  The first one that crosses between people who have been in different parts shows that there
were two.

A member can name codes of epochs that never were: it is authenticated, and answers for what it says.  Two parts that
never meet again, neither in the room nor outside of it, find out nothing.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from enum import Enum
from hashlib import sha256
from typing import Any
from xml.etree import ElementTree as ET

from ..errors import UsageError
from ..stanza.content_profile import EPOCHS

__all__ = ["EpochComparison", "EpochHistory", "compare_epochs", "epoch_code", "read_epoch_code"]

_LABEL = b"urn:xmpp:mls:0 epoch code"
_GROUP = 5
_DIGITS = 40
_REMEMBERED = 256  # epochs
_TOLD = 8  # of them, in one message
_READ_AT_MOST = 64  # in one message of somebody else
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


class EpochHistory:
    """The codes of the epochs of one group that we have been in, and whether others have been in the same.

    It is in memory only: what was before the start is not compared.
    """

    def __init__(self) -> None:
        self._group: bytes | None = None
        self._codes: dict[int, str] = {}
        self._told: int | None = None

    def note(self, group: bytes, epoch: int, authenticator: bytes) -> None:
        """We are in an epoch.  Another group begins another history.

        :param group: its id
        """
        if group != self._group:
            self._group, self._codes, self._told = group, {}, None
        if epoch not in self._codes:  # if we have been in two epochs of one number, the first one counts
            self._codes[epoch] = read_epoch_code(epoch_code(epoch, authenticator))[1]
            if len(self._codes) > _REMEMBERED:
                del self._codes[min(self._codes)]

    def to_tell(self) -> ET.Element | None:
        """The affix for a message that we send; None if nothing is new since the last one."""
        newest = max(self._codes, default=None)
        if newest is None or newest == self._told:
            return None
        self._told = newest
        affix = ET.Element(f"{{{EPOCHS}}}epochs")
        for epoch in sorted(self._codes)[-_TOLD:]:
            ET.SubElement(affix, f"{{{EPOCHS}}}epoch", {"number": str(epoch), "code": self._codes[epoch]})
        return affix

    def contradicted_by(self, affixes: Iterable[Any]) -> int | None:
        """The first epoch in which the sender of these affixes has been in another one than we; None if there is none.

        What cannot be read is ignored: it contradicts nothing.
        """
        told: dict[int, str] = {}
        for affix in affixes:
            for entry in list(affix)[:_READ_AT_MOST]:
                try:
                    epoch, code = read_epoch_code(f"{entry.get('number')}:{entry.get('code')}")
                except UsageError:
                    continue
                told.setdefault(epoch, code)
        known = (epoch for epoch in sorted(told) if epoch in self._codes)
        return next((epoch for epoch in known if not hmac.compare_digest(told[epoch], self._codes[epoch])), None)
