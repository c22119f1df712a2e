"""The states of a reader of one room, as tables.  `reading.Reading` acts on them; this module does no I/O.

The state has three parts, each with a table of its own:

* `Stay`: do we want the room?
* `Place`: how far is the reader in the room's order?
* `SelfPing`: is it certain that we are still in the room, and that nothing is missing?

::

    BEHIND ──ROUND_BEGINS──> CATCHING_UP ──ROUND_ENDS──> LIVE
      ^  ^                        │                        │
      │  │                OVERFLOW, REREAD                 │
      │  │                        v                        │
      │  └──── ROUND_ENDS ── INCOMPLETE                    │
      └──── OVERFLOW, REREAD, GO_BACK, OUTSIDE ────────────┘

    NONE ──SUSPECT──> SUSPECTED ──ASK──> ASKED ──CONFIRMED──> VERIFYING ──the round ends in LIVE──> NONE

A doubt that arises while an earlier one is being resolved is recorded in the state (ASKED_AGAIN, VERIFYING_AGAIN), and
the room is asked once more afterwards.  The room's answer covers everything that happened before the question.  The
reading of the archive that resolves a doubt begins after the answer.

A pair of state and event that is in no table cannot occur; `ReadingState` raises `RuntimeError` for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import TypeVar


class Stay(Enum):
    """Whether we want to be in the room."""

    #: We read the room, or want to.
    WANTED = auto()
    #: We have requested its destruction, so our removal from the room is expected.
    DESTROYING = auto()
    #: We have left: reading ends.
    ENDED = auto()


class Place(Enum):
    """How far the reader is in the room's order."""

    #: The archive has to be read.  Live stanzas are not buffered, since the archive will hold them.
    BEHIND = auto()
    #: The archive is being read; live stanzas are buffered.
    CATCHING_UP = auto()
    #: The archive is being read, but live stanzas were dropped, or there is something new to look for: the archive
    #: will be read once more.
    INCOMPLETE = auto()
    #: The archive has been read to its end; the buffer has the rest.
    LIVE = auto()


class SelfPing(Enum):
    """Whether it is certain that we are in the room and have read all of it."""

    NONE = auto()
    #: The room is to be asked whether we are in it (XEP-0410).
    SUSPECTED = auto()
    #: The room has been asked.
    ASKED = auto()
    #: The room has been asked, and there is a reason to ask again.
    ASKED_AGAIN = auto()
    #: The room has confirmed that we are in it; since then the archive is being read to its end.
    VERIFYING = auto()
    #: The same, and there is a reason to ask again.
    VERIFYING_AGAIN = auto()


class StayEvent(Enum):
    JOIN = auto()
    DESTROY = auto()
    #: The room refused its destruction, or did not answer.
    NOT_DESTROYED = auto()
    LEAVE = auto()


class PlaceEvent(Enum):
    #: Reading the archive begins.
    ROUND_BEGINS = auto()
    #: The archive has been read to its end.
    ROUND_ENDS = auto()
    #: Reading the archive was aborted.
    ROUND_FAILS = auto()
    #: Live stanzas were dropped.
    OVERFLOW = auto()
    #: The archive may hold stanzas that were not there when the round began.
    REREAD = auto()
    #: The position was moved.
    GO_BACK = auto()
    #: We are out of the room, and about to enter it again.
    OUTSIDE = auto()


class SelfPingEvent(Enum):
    SUSPECT = auto()
    #: There is no reason to ask any more: the room cannot be asked, or a new session starts.
    DISMISS = auto()
    ASK = auto()
    CONFIRMED = auto()
    NO_ANSWER = auto()
    #: The question is void, since we are out of the room meanwhile.
    VOID = auto()
    #: The archive has been read to its end, and nothing is left to read.
    CAUGHT_UP = auto()
    #: We are out of the room, and about to enter it again.
    OUTSIDE = auto()


STAY: Mapping[StayEvent, Mapping[Stay, Stay]] = {
    StayEvent.JOIN: {Stay.WANTED: Stay.WANTED, Stay.DESTROYING: Stay.DESTROYING, Stay.ENDED: Stay.WANTED},
    StayEvent.DESTROY: {
        Stay.WANTED: Stay.DESTROYING,
        Stay.DESTROYING: Stay.DESTROYING,
        Stay.ENDED: Stay.ENDED,
    },
    StayEvent.NOT_DESTROYED: {Stay.WANTED: Stay.WANTED, Stay.DESTROYING: Stay.WANTED, Stay.ENDED: Stay.ENDED},
    StayEvent.LEAVE: {Stay.WANTED: Stay.ENDED, Stay.DESTROYING: Stay.ENDED, Stay.ENDED: Stay.ENDED},
}

_ALL_BEHIND = dict.fromkeys(Place, Place.BEHIND)
PLACE: Mapping[PlaceEvent, Mapping[Place, Place]] = {
    PlaceEvent.ROUND_BEGINS: {Place.BEHIND: Place.CATCHING_UP},
    PlaceEvent.ROUND_ENDS: {
        Place.CATCHING_UP: Place.LIVE,
        Place.INCOMPLETE: Place.BEHIND,
        Place.BEHIND: Place.BEHIND,  # it was moved during the round
    },
    PlaceEvent.ROUND_FAILS: {
        Place.CATCHING_UP: Place.BEHIND,
        Place.INCOMPLETE: Place.BEHIND,
        Place.BEHIND: Place.BEHIND,
    },
    PlaceEvent.OVERFLOW: {Place.CATCHING_UP: Place.INCOMPLETE, Place.LIVE: Place.BEHIND},
    PlaceEvent.REREAD: {
        Place.BEHIND: Place.BEHIND,
        Place.CATCHING_UP: Place.INCOMPLETE,
        Place.INCOMPLETE: Place.INCOMPLETE,
        Place.LIVE: Place.BEHIND,
    },
    PlaceEvent.GO_BACK: _ALL_BEHIND,
    PlaceEvent.OUTSIDE: _ALL_BEHIND,
}

SELF_PING: Mapping[SelfPingEvent, Mapping[SelfPing, SelfPing]] = {
    SelfPingEvent.SUSPECT: {
        SelfPing.NONE: SelfPing.SUSPECTED,
        SelfPing.SUSPECTED: SelfPing.SUSPECTED,
        SelfPing.ASKED: SelfPing.ASKED_AGAIN,
        SelfPing.ASKED_AGAIN: SelfPing.ASKED_AGAIN,
        SelfPing.VERIFYING: SelfPing.VERIFYING_AGAIN,
        SelfPing.VERIFYING_AGAIN: SelfPing.VERIFYING_AGAIN,
    },
    SelfPingEvent.DISMISS: {
        SelfPing.NONE: SelfPing.NONE,
        SelfPing.SUSPECTED: SelfPing.NONE,
        SelfPing.ASKED: SelfPing.ASKED,
        SelfPing.ASKED_AGAIN: SelfPing.ASKED,
        SelfPing.VERIFYING: SelfPing.VERIFYING,
        SelfPing.VERIFYING_AGAIN: SelfPing.VERIFYING,
    },
    SelfPingEvent.ASK: {SelfPing.SUSPECTED: SelfPing.ASKED},
    SelfPingEvent.CONFIRMED: {SelfPing.ASKED: SelfPing.VERIFYING, SelfPing.ASKED_AGAIN: SelfPing.SUSPECTED},
    SelfPingEvent.NO_ANSWER: {SelfPing.ASKED: SelfPing.SUSPECTED, SelfPing.ASKED_AGAIN: SelfPing.SUSPECTED},
    SelfPingEvent.VOID: {SelfPing.ASKED: SelfPing.NONE, SelfPing.ASKED_AGAIN: SelfPing.SUSPECTED},
    SelfPingEvent.CAUGHT_UP: {
        SelfPing.NONE: SelfPing.NONE,
        SelfPing.SUSPECTED: SelfPing.SUSPECTED,
        SelfPing.ASKED: SelfPing.ASKED,
        SelfPing.ASKED_AGAIN: SelfPing.ASKED_AGAIN,
        SelfPing.VERIFYING: SelfPing.NONE,
        SelfPing.VERIFYING_AGAIN: SelfPing.SUSPECTED,
    },
    SelfPingEvent.OUTSIDE: {
        SelfPing.NONE: SelfPing.NONE,
        SelfPing.SUSPECTED: SelfPing.SUSPECTED,
        SelfPing.ASKED: SelfPing.ASKED,
        SelfPing.ASKED_AGAIN: SelfPing.ASKED_AGAIN,
        SelfPing.VERIFYING: SelfPing.NONE,
        SelfPing.VERIFYING_AGAIN: SelfPing.SUSPECTED,
    },
}

_State = TypeVar("_State", Stay, Place, SelfPing)
_Event = TypeVar("_Event", StayEvent, PlaceEvent, SelfPingEvent)


def _next(table: Mapping[_Event, Mapping[_State, _State]], state: _State, event: _Event) -> _State:
    try:
        return table[event][state]
    except KeyError:
        raise RuntimeError(f"{event} cannot happen in {state}") from None


class ReadingState:
    """The three parts of the state, and the effects of one on another.

    Each method is one event.  An event that cannot happen in the present state raises `RuntimeError` and changes
    nothing.
    """

    def __init__(self) -> None:
        self.stay = Stay.WANTED
        self.place = Place.BEHIND
        self.self_ping = SelfPing.NONE

    def __repr__(self) -> str:
        return f"<ReadingState {self.stay.name} {self.place.name} {self.self_ping.name}>"

    @property
    def buffers(self) -> bool:
        """Whether live stanzas are to be buffered."""
        return self.place in (Place.CATCHING_UP, Place.LIVE)

    @property
    def suspected(self) -> bool:
        """Whether the room is to be asked as soon as possible."""
        return self.self_ping in (SelfPing.SUSPECTED, SelfPing.ASKED_AGAIN, SelfPing.VERIFYING_AGAIN)

    @property
    def verifying(self) -> bool:
        """Whether the archive is being read to resolve a doubt."""
        return self.self_ping in (SelfPing.VERIFYING, SelfPing.VERIFYING_AGAIN)

    # Stay

    def join(self) -> None:
        """Reading starts from a new position."""
        self.stay = _next(STAY, self.stay, StayEvent.JOIN)
        self.go_back()

    def destroy(self) -> None:
        self.stay = _next(STAY, self.stay, StayEvent.DESTROY)

    def not_destroyed(self) -> None:
        self.stay = _next(STAY, self.stay, StayEvent.NOT_DESTROYED)

    def leave(self) -> None:
        self.stay = _next(STAY, self.stay, StayEvent.LEAVE)

    # Place

    def round_begins(self) -> None:
        self.place = _next(PLACE, self.place, PlaceEvent.ROUND_BEGINS)

    def round_ends(self) -> bool:
        """The archive has been read to its end.

        :returns: whether this resolves a doubt
        """
        self.place = _next(PLACE, self.place, PlaceEvent.ROUND_ENDS)
        if self.place is not Place.LIVE:
            return False
        verified = self.verifying
        self.self_ping = _next(SELF_PING, self.self_ping, SelfPingEvent.CAUGHT_UP)
        return verified

    def round_fails(self) -> None:
        self.place = _next(PLACE, self.place, PlaceEvent.ROUND_FAILS)

    def overflow(self) -> None:
        self.place = _next(PLACE, self.place, PlaceEvent.OVERFLOW)

    def go_back(self) -> None:
        self.place = _next(PLACE, self.place, PlaceEvent.GO_BACK)

    def outside(self) -> None:
        """We are out of the room: a round through the archive is due, which returns everything until our next entry."""
        self.place = _next(PLACE, self.place, PlaceEvent.OUTSIDE)
        self.self_ping = _next(SELF_PING, self.self_ping, SelfPingEvent.OUTSIDE)

    # SelfPing

    def suspect(self) -> None:
        self.self_ping = _next(SELF_PING, self.self_ping, SelfPingEvent.SUSPECT)

    def dismiss(self) -> None:
        self.self_ping = _next(SELF_PING, self.self_ping, SelfPingEvent.DISMISS)

    def ask(self) -> None:
        self.self_ping = _next(SELF_PING, self.self_ping, SelfPingEvent.ASK)

    def confirmed(self) -> None:
        """The room has answered that we are in it: read the archive once more, unless the room must be asked again."""
        self.self_ping = _next(SELF_PING, self.self_ping, SelfPingEvent.CONFIRMED)
        if self.self_ping is SelfPing.VERIFYING:
            self.place = _next(PLACE, self.place, PlaceEvent.REREAD)

    def no_answer(self) -> None:
        self.self_ping = _next(SELF_PING, self.self_ping, SelfPingEvent.NO_ANSWER)

    def void(self) -> None:
        self.self_ping = _next(SELF_PING, self.self_ping, SelfPingEvent.VOID)
