"""The numbers that RFC 9750 section 7 asks a deployment to fix, as far as the core needs them.

Times are in seconds, clocks are given by the caller: nothing here looks at one.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DAY", "HOUR", "Parameters"]

HOUR = 3600
DAY = 24 * HOUR


@dataclass(frozen=True, slots=True)
class Parameters:
    """Limits on the state that a group keeps, and for how long it keeps it.

    :ivar past_epochs: ended epochs whose application messages can still be read (RFC 9420 15.3)
    :ivar past_epoch_time: seconds after which an ended epoch is forgotten
    :ivar forward_limit: generations that a message may be ahead of the last one seen (RFC 9420 9.2, 15.3)
    :ivar skipped_limit: keys of skipped generations kept per ratchet
    :ivar resumption_epochs: epochs whose resumption PSK is kept (RFC 9420 8.6)
    :ivar proposal_limit: proposals remembered in one epoch
    :ivar member_proposal_limit: of these, by one member
    :ivar outsider_proposal_limit: of these, by all who are no members
    :ivar lifetime_limit: longest lifetime that a KeyPackage may claim (RFC 9420 7.2)
    :ivar clock_tolerance: how far a peer's clock may be off
    """

    past_epochs: int = 5
    past_epoch_time: int = HOUR
    forward_limit: int = 1000
    skipped_limit: int = 1000
    resumption_epochs: int = 16
    proposal_limit: int = 256
    member_proposal_limit: int = 16
    outsider_proposal_limit: int = 64
    lifetime_limit: int = 90 * DAY
    clock_tolerance: int = HOUR
