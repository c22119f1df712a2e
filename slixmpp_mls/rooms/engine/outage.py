"""Why a room cannot be entered, or read, since when, and when it is tried again.

An attempt fails for one reason, the next attempt perhaps for another: a service that was out of reach answers again,
and has banned us meanwhile.  ``mls_outage`` reports the first reason, each change of it, and the end, when the room has
been read to the end of its archive.  Further attempts that fail for the same reason are not reported.

A service that does not answer and one that our server cannot reach are one reason: servers give both answers in turn.
While our own connection is broken, no attempt is made, and the reason stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ...delivery import AttemptFailed
from ...delivery.occupancy import UNREACHABLE
from ...errors import DeliveryError, Disconnected, Refused, RoomLost
from ...runtime import Context

__all__ = ["Outage", "OutageReport"]

_SILENT = "unreachable"


@dataclass(frozen=True, slots=True)
class Outage:
    """A room that we want to be in cannot be entered, or read (``mls_outage``).

    :ivar room: its bare JID
    :ivar reason: as :attr:`.RoomLost.reason` if the room is lost; ``"unreachable"``: our server cannot reach the
        room's, or nobody answers; ``"archive"``: we are in the room, and cannot read its archive; ``"failed"``: an
        unexpected error of our own has ended the reading (``mls_failed``); otherwise the error condition of the refusal
        (RFC 6120 8.3.3), such as ``"service-unavailable"`` of a room that is full (XEP-0045 7.2.9).  Empty: it is over
    :ivar text: an explanation, possibly empty
    :ivar since: when the first attempt failed, or the room was lost; seconds since the Unix epoch
    :ivar next_try: when it is tried again, within a minute or so; seconds since the Unix epoch.  A new session of ours
        may come first.  None: never, because the room was destroyed
    """

    room: str
    reason: str
    text: str
    since: int
    next_try: int | None


class OutageReport:
    """Reports the outage of one room.

    :param next_try: seconds until a room that is lost is tried again; None: it is not
    :ivar present: the outage; None if there is none
    """

    def __init__(self, context: Context, room: str, next_try: Callable[[], float | None]) -> None:
        self.present: Outage | None = None
        self._context = context
        self._room = room
        self._next_try = next_try

    def attempt_failed(self, event: AttemptFailed) -> None:
        """Handle a failed attempt of the reader, which goes on trying."""
        reason, text = _described(event.error)
        if event.in_room and reason != _SILENT:
            reason = "archive"
        self._note(reason, text, event.pause)

    def lost(self, error: DeliveryError) -> None:
        """Handle the loss of the room, or a failed attempt to enter the lost room."""
        if isinstance(error, Disconnected):  # we, and not the room
            if self.present is not None:
                self.present = replace(self.present, next_try=self._at(self._next_try()))
            return
        self._note(*_described(error), self._next_try())

    def broken(self, error: Exception) -> None:
        """Handle an unexpected error, which has ended the reading; its words may be secret."""
        self._note("failed", type(error).__name__, self._next_try())

    def over(self) -> None:
        """The room has been read to the end of its archive."""
        outage, self.present = self.present, None
        if outage is not None:
            self._context.fire("mls_outage", replace(outage, reason="", text="", next_try=None))

    def forget(self) -> None:
        """The room is not wanted any more."""
        self.present = None

    def _note(self, reason: str, text: str, pause: float | None) -> None:
        before = self.present
        since = self._context.now if before is None else before.since
        self.present = Outage(self._room, reason, text, since, self._at(pause))
        if before is None or before.reason != reason:
            self._context.fire("mls_outage", self.present)

    def _at(self, pause: float | None) -> int | None:
        return None if pause is None else int(self._context.now + pause)


def _described(error: DeliveryError) -> tuple[str, str]:
    """The reason for a failed attempt, and its explanation."""
    match error:
        case RoomLost():
            return error.reason, error.text
        case Refused() if error.condition in UNREACHABLE:
            return _SILENT, str(error)
        case Refused():
            return error.condition, error.text
        case _:
            return _SILENT, str(error)
