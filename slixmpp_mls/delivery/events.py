"""What a room reports beside its stanzas.  All are facts for the application; none needs an answer."""

from __future__ import annotations

from dataclasses import dataclass

from slixmpp import JID


@dataclass(frozen=True, slots=True)
class Entered:
    """We are in the room (`again`: after an interruption)."""

    nick: str
    again: bool


@dataclass(frozen=True, slots=True)
class Interrupted:
    """We are out of the room for now; coming back is being tried.

    :ivar cause: ``"stream"`` (the session ended), ``"kicked"``, ``"service"`` (it shut down,
        or lost us), ``"silent"`` (it dropped us without a word, noticed by a self-ping),
        ``"unreachable"`` (our server and the room's cannot reach each other).
    """

    cause: str


@dataclass(frozen=True, slots=True)
class CatchingUp:
    """Reading the archive: `read` messages of any kind so far; `complete`: now live."""

    read: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Bounced:
    """The room, or a server on the way to it, returned a message of ours with an error.

    :ivar remedy: ``"enter"``: we are not in the room, or have to assume so; it is entered again, and the message
        sent again. ``"wait"``: it is sent again later. Empty: it is refused for good.
    """

    message_id: str
    condition: str
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Unarchived:
    """A message came that the room did not archive: it has no place in the order and was dropped."""

    message_id: str | None


@dataclass(frozen=True, slots=True)
class AffiliationChanged:
    """The room says that somebody's affiliation is now this one."""

    jid: JID
    affiliation: str


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """The room's configuration was changed; it may no longer be fit for the group (see `Room.check`)."""


@dataclass(frozen=True, slots=True)
class Verified:
    """After a doubt: we are in the room, and have read all that it has archived until now."""


RoomEvent = Entered | Interrupted | CatchingUp | Verified | Bounced | Unarchived | AffiliationChanged | Reconfigured
