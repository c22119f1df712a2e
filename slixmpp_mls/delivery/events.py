"""Events of a room other than its stanzas.  They inform the application; none needs an answer."""

from __future__ import annotations

from dataclasses import dataclass

from slixmpp import JID

from ..errors import DeliveryError
from ..stanza.elements import LiveElement


@dataclass(frozen=True, slots=True)
class Entered:
    """We are in the room.

    :ivar again: after an interruption
    :ivar room: bare JID of the room, in the events of the plugin
    """

    nick: str
    again: bool
    room: str = ""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """We are out of the room for now; the client tries to enter it again.

    :ivar cause: ``"stream"`` (the session ended), ``"kicked"``, ``"service"`` (it shut down,
        or lost our presence), ``"silent"`` (it dropped us without notice; a self-ping detected it),
        ``"unreachable"`` (our server and the room's cannot reach each other).
    :ivar room: bare JID of the room, in the events of the plugin
    """

    cause: str
    room: str = ""


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """The room could not be entered, or its archive not be read, while we have a stream; another attempt follows.

    :ivar error: the refusal, or the lack of an answer
    :ivar pause: seconds until the next attempt
    :ivar in_room: whether we are in the room, so that it is the archive that fails
    """

    error: DeliveryError
    pause: float
    in_room: bool


@dataclass(frozen=True, slots=True)
class CatchingUp:
    """The archive is being read.

    :ivar read: number of messages of any kind so far
    :ivar complete: reading is live now
    :ivar room: bare JID of the room, in the events of the plugin
    """

    read: int
    complete: bool
    room: str = ""


@dataclass(frozen=True, slots=True)
class Bounced:
    """The room, or a server on the way to it, returned a message of ours with an error.

    :ivar remedy: ``"enter"``: we are not in the room, or must assume so; the client enters it again and sends the
        message again. ``"wait"``: the message is sent again later. Empty: the refusal is final.
    :ivar room: bare JID of the room, in the events of the plugin
    """

    message_id: str
    condition: str
    text: str
    remedy: str = ""
    room: str = ""


@dataclass(frozen=True, slots=True)
class Unarchived:
    """The room did not archive a message: it has no place in the order and was dropped."""

    message_id: str | None


@dataclass(frozen=True, slots=True)
class EphemeralShown:
    """A live message with content that is not stored and has no place in the order.

    :ivar real_jid: the sender's according to the room, not authenticated; None if the room does not show it
    """

    element: LiveElement
    real_jid: JID | None


@dataclass(frozen=True, slots=True)
class AffiliationChanged:
    """The room reports that an account's affiliation is now this one.

    :ivar room: bare JID of the room, in the events of the plugin
    """

    jid: JID
    affiliation: str
    room: str = ""


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """The room's configuration was changed; it may no longer be fit for the group (see `Room.check`)."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A doubt has ended: we are in the room, and have read everything that it has archived until now."""


RoomEvent = (
    Entered
    | Interrupted
    | AttemptFailed
    | CatchingUp
    | Verified
    | Bounced
    | Unarchived
    | EphemeralShown
    | AffiliationChanged
    | Reconfigured
)
