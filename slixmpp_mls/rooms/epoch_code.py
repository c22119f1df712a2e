"""Epoch codes: two members compare them to find out whether the server has shown them the same room.

A server that gives the Commits of a room to different members in different orders splits the group.  Each part
continues by itself, and neither can read the other.  Inside the room a split looks like silence, so the comparison
takes another way: two users read digits to each other, or two programs exchange them.

The code is derived from the epoch_authenticator (RFC 9420 8.7), which two members have in common exactly if they agree
on the group's whole history.  :func:`epoch_code` turns it into 40 decimal digits, by the rule of the XEP's "Comparing
Epochs".  These are 133 bits, so not even a member that helps the server finds two histories with one code.  The digits
are not secret, and reveal nothing about other epochs.  The epoch's number goes with them, since members in different
epochs have different codes, too.

*Automatic detection.*  A member that can read a message has the keys of its epoch, and with them its sender's history:
a code of the current epoch inside the message would add nothing.  But the two parts of a split group can meet again:
the server leads a member of one part into the other (the member seems to have missed a Commit, and returns), and
everything looks as before.  So messages carry, from time to time, the codes of the epochs that their sender has been in
(:class:`EpochHistory`).  The first one that passes between members of different parts shows that there were two.

A member can name codes of epochs that never existed: it is authenticated, and answerable for its claims.  Two parts
that never meet again, neither in the room nor outside of it, detect nothing.
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
_REMEMBERED = 256  # epochs whose codes are kept
_TOLD = 8  # of them, sent in one message
_READ_AT_MOST = 64  # read from one message of another member
# For human input, typed or dictated: any separators between the digits, and the epoch in front.
_CODE = re.compile(r"\s*(\d{1,20})\s*:\s*((?:\d[\s.\-]*){40})", re.ASCII)


class EpochComparison(Enum):
    """The result of a comparison."""

    SAME = "same"
    """Both are in the same epoch of the same group, with the same history."""
    DIFFERENT_EPOCH = "different epoch"
    """One has read further than the other: compare again when both have read the room to its end."""
    SPLIT = "split"
    """Both are in an epoch of the same number, but not in the same epoch: they have been shown different rooms."""


def epoch_code(epoch: int, authenticator: bytes) -> str:
    """The code of an epoch in human-readable form: ``7: 12345 67890 ...``, eight groups of five digits.

    :param authenticator: the epoch_authenticator (RFC 9420 8.7)
    """
    digits = f"{int.from_bytes(sha256(_LABEL + authenticator).digest(), 'big') % 10**_DIGITS:0{_DIGITS}}"
    return f"{epoch}: " + " ".join(digits[start : start + _GROUP] for start in range(0, _DIGITS, _GROUP))


def read_epoch_code(text: str) -> tuple[int, str]:
    """The epoch and the digits of a typed or received code.

    :raises UsageError: it is not an epoch code
    """
    found = _CODE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise UsageError(f"not the code of an epoch: a number, a colon, and {_DIGITS} digits")
    return int(found[1]), "".join(filter(str.isdigit, found[2]))


def compare_epochs(ours: str, theirs: str) -> EpochComparison:
    """Compare two codes, in constant time.

    :raises UsageError: one of them is not an epoch code
    """
    (own_epoch, own), (epoch, digits) = read_epoch_code(ours), read_epoch_code(theirs)
    if epoch != own_epoch:
        return EpochComparison.DIFFERENT_EPOCH
    return EpochComparison.SAME if hmac.compare_digest(own, digits) else EpochComparison.SPLIT


class EpochHistory:
    """The codes of the epochs of one group that we have been in, compared with those of other members.

    It is in memory only: epochs before the start are not compared.
    """

    def __init__(self) -> None:
        self._group: bytes | None = None
        self._codes: dict[int, str] = {}
        self._told: int | None = None

    def note(self, group: bytes, epoch: int, authenticator: bytes) -> None:
        """Record that we are in an epoch.  Another group begins another history.

        :param group: its id
        """
        if group != self._group:
            self._group, self._codes, self._told = group, {}, None
        if epoch not in self._codes:  # of two epochs with one number, the first one counts
            self._codes[epoch] = read_epoch_code(epoch_code(epoch, authenticator))[1]
            if len(self._codes) > _REMEMBERED:
                del self._codes[min(self._codes)]

    def to_tell(self) -> ET.Element | None:
        """The affix for an outgoing message; None if nothing is new since the last one."""
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

        Unreadable affixes are ignored: they contradict nothing.
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
