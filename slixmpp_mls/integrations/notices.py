"""Events in words, for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from ..authentication import TrustChanged
from ..client import GroupChanged, Joined, JoinRequested, LeftBehind, Rejected, RemovedFromGroup, Unreadable, Unsure
from ..errors import suite_name
from ..rooms.conversations import ConversationMerged
from ..rooms.engine.outage import Outage
from ..stanza.display import displayable

__all__ = ["EVENTS", "Notice", "notice", "outage_in_words"]


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence about an event.

    :ivar text: without characters that do something to a screen
    :ivar room: bare JID of the room that it is about; None: it is about the account, or the event names no room
    :ivar warning: whether it tells of something that should not be
    """

    text: str
    room: str | None = None
    warning: bool = False


def _joined(event: Joined) -> str:
    return "this device is in the group" + (f", let in by {event.by.account}" if event.by is not None else "")


def _changed(event: GroupChanged) -> str:
    parts = [f"{member.account} came" for member in event.added] + [f"{one.account} went" for one in event.removed]
    parts += ["the rules were changed"] if event.policy_changed else []
    return f"{', '.join(parts) or 'new keys'} (by {event.by.account}; epoch {event.epoch})"


def _trust_changed(event: TrustChanged) -> str:
    return f"{event.account}/{event.key.device or '?'} is {event.level}: {event.key.fingerprint}"


def _removed(event: RemovedFromGroup) -> str | None:
    return None if event.wanted else f"You were removed by {event.by.account if event.by else 'nobody'}."


def _unreadable(event: Unreadable) -> str | None:
    if event.reason == "before-join":
        return None  # it was not meant for us
    return f"a message of {event.claimed} cannot be read: {event.reason}"


def _rejected(event: Rejected) -> str:
    return f"something in the name of {event.claimed} was refused: {event.error}"


def _left_behind(event: LeftBehind) -> str:
    return f"{event.by} seems to be ahead of this device"


def _unsure(event: Unsure) -> str:
    if not event.reasons:
        return "this device is sure again that it is where the group is"
    return f"this device may not be where the group is ({', '.join(event.reasons)}); it tries to find out"


def _join_requested(event: JoinRequested) -> str:
    return f"{event.account}/{event.device} asks to be let in ({event.reason}): /add {event.account}/{event.device}"


def _merged(event: ConversationMerged) -> str:
    return f"there are several conversations with {event.account}; this one counts from now on"


def outage_in_words(outage: Outage) -> str:
    """Why a room cannot be read, since when, and when it is tried again, in local time."""
    if not outage.reason:
        return "the room can be read again"
    again = "" if outage.next_try is None else f"; tried again at {_local(outage.next_try)}"
    return f"the room cannot be read since {_local(outage.since)} ({outage.reason}){again}"


def _local(time: int) -> str:
    return f"{datetime.fromtimestamp(time).astimezone():%d %B, %H:%M}"


_WORDS: Final[dict[str, tuple[bool, Callable[[Any], str | None]]]] = {
    "mls_joined": (False, _joined),
    "mls_group_changed": (False, _changed),
    "mls_removed": (True, _removed),
    "mls_rejected": (True, _rejected),
    "mls_trust_changed": (False, _trust_changed),
    "mls_new_key": (False, lambda event: f"{event.client} is new: {event.fingerprint}"),
    "mls_key_changed": (True, lambda event: f"{event.client} has another key: {event.fingerprint}"),
    "mls_unreadable": (True, _unreadable),
    "mls_left_behind": (True, _left_behind),
    "mls_unsure": (True, _unsure),
    "mls_group_lost": (True, lambda event: f"this device cannot follow any more: {event.reason}"),
    "mls_group_outdated": (True, lambda _: "the group is of version 0.1, which has other rules: begin a new one"),
    "mls_room_lost": (True, str),
    "mls_outage": (True, outage_in_words),
    "mls_interrupted": (True, lambda event: f"out of the room for now ({event.cause})"),
    "mls_entered": (False, lambda event: "back in the room" if event.again else None),
    "mls_join_requested": (False, _join_requested),
    "mls_conversation_merged": (False, _merged),
    "mls_better_suite": (
        False,
        lambda event: (
            f"all members support cipher suite {suite_name(event.suite)}, which is better than"
            f" {suite_name(event.present)}"
        ),
    ),
    "mls_doubted": (True, lambda event: f"{event.member} is doubted: {event.doubt.text}"),
    "mls_new_device": (
        True,
        lambda event: (
            f"your account has another device, {event.id} ({event.label or 'without a name'}):"
            f" {event.fingerprint or 'no key'}"
        ),
    ),
    "mls_new_store": (
        True,
        lambda event: (
            (
                f"this store is new, and your account lists {len(event.devices) - len(event.replaced)} other device(s)"
                f" {f'called {event.label}' if event.label else 'without a name'}: retire those whose stores are lost"
            )
            if len(event.replaced) < len(event.devices)
            else None
        ),
    ),
    "mls_device_conflict": (True, lambda event: f"the keys of your device {event.id} are listed differently"),
    "mls_retired": (True, lambda _: "your account has retired this device; a new store makes a new one"),
    "mls_clock_wrong": (
        True,
        lambda event: (
            f"your clock is {abs(event.seconds):.0f} seconds {'ahead of' if event.seconds > 0 else 'behind'} the"
            " server's: set it right, or others cannot add this device"
        ),
    ),
    "mls_room_unsuitable": (True, str),
    "mls_store_failed": (True, lambda error: f"the store cannot be written: {error}"),
    "mls_failed": (True, str),
}
EVENTS: Final = tuple(_WORDS)
"""The names of the events that have words."""


def notice(name: str, event: Any) -> Notice | None:
    """An event in words.

    :param name: one of `EVENTS`
    :returns: None if people need not know
    """
    warning, words = _WORDS[name]
    text = words(event)
    if text is None:
        return None
    room = getattr(event, "room", None)
    if (name == "mls_unsure" and not event.reasons) or (name == "mls_outage" and not event.reason):
        warning = False
    return Notice(displayable(text), str(room) if room else None, warning)
