"""Typing and read markers: ephemeral content, which is sent only because the application asks for it.

::

    room.typing(), message.displayed() ── envelope ──► Ephemeral.seal ──► Room.send_live
    a live stanza with <ephemeral/> ──► Ephemeral.open ──► mls_typing, mls_marker

It is not stored, not archived and not repeated (:mod:`slixmpp_mls.client.group.ephemeral`).  So nothing is sent while
we are outside of the room, behind, unsure, or silenced by a member that the Authentication Service denies; a call then
returns False.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4
from xml.etree import ElementTree as ET

from ..client import Rejected
from ..client.group.ephemeral import EphemeralReceived
from ..delivery import EphemeralShown
from ..errors import AffixMismatch, DeliveryError, InvalidError, PeerError
from ..stanza.content_profile import PROFILE
from ..stanza.elements import Ephemeral
from ..stanza.rich import MARKERS, SENDER, STATES, Kind, read_rich
from ..stanza.sce import Affix, Envelope, mismatches
from ..stanza.xml import to_stdlib
from .content import seal_elements
from .engine.parts import RoomParts
from .rich import Reference, RoomReferences, report_presence

__all__ = ["Signals", "open_signal"]

log = logging.getLogger(__name__)

_REPEATED_AFTER: Final = 5.0  # seconds; XEP-0085 wants no state sent twice in a row, and an ephemeral one may be lost
_RULES: Final = "urn:xmpp:mls:0, ephemeral content"


class Signals:
    """Sends and receives the ephemeral content of one room."""

    def __init__(self, parts: RoomParts, references: RoomReferences) -> None:
        self._parts = parts
        self._context = parts.context
        self._group = parts.group
        self._references = references
        self._last: tuple[str, float] = ("", 0.0)

    # --- sending ---------------------------------------------------------------------------------

    async def typing(self, active: bool) -> bool:
        """Show that we are typing, or have stopped (XEP-0085).

        :returns: whether it was written to the stream
        """
        state, now = "composing" if active else "paused", asyncio.get_running_loop().time()
        if self._last[0] == state and now - self._last[1] < _REPEATED_AFTER:
            return False
        self._last = state, now
        return await self._send(ET.Element(f"{{{STATES}}}{state}"))

    async def displayed(self, about: Reference) -> bool:
        """Show that a message, and all before it, have been read (XEP-0333).

        :returns: whether it was written to the stream
        """
        element = ET.Element(f"{{{MARKERS}}}displayed", {"id": about.id})
        if about.sender is not None:
            element.set(SENDER, about.sender)
        return await self._send(element)

    async def _send(self, element: ET.Element) -> bool:
        group = self._group
        ready = group.is_member and self._parts.progress.live.is_set() and self._parts.muc.inside
        if not ready or group.holds or group.sending.silenced or group.continuation.reinit is not None:
            return False
        account = self._context.device.identity.account
        payload = group.ephemeral.seal(seal_elements((element,), account, group.room, self._context.time()))
        try:
            await self._parts.muc.send_live((payload.to_stdlib(),), message_id=str(uuid4()))
        except DeliveryError as error:
            log.info("%s: ephemeral content was not sent: %s", group.room, error)
            return False
        return True

    # --- receiving -------------------------------------------------------------------------------

    def shown(self, event: EphemeralShown) -> None:
        """Read a live stanza with ephemeral content.  Bad content is reported, and changes nothing."""
        claimed = None if event.real_jid is None else str(event.real_jid.bare)
        if claimed is None or not self._group.is_member or not self._group.roster.has(claimed):
            return  # an occupant that is no member does not make us decrypt
        if not isinstance(event.element, Ephemeral):
            return
        try:
            self._open(event.element)
        except PeerError as error:
            self._context.fire("mls_rejected", Rejected(self._group.room, error, claimed, ""))

    def _open(self, element: Ephemeral) -> None:
        received = self._group.ephemeral.open(element, self._context.now)
        if received is None:
            return
        sender, xml = received.sender, open_signal(received, self._group.room, self._context.time())
        doubt = self._group.members.doubts.get(sender.identity)
        if doubt is not None and doubt.denied and not self._group.sending.talks_to_anybody:
            return
        report_presence(self._context.fire, self._group.room, self._references.resolve(xml, sender.account), sender)


def open_signal(received: EphemeralReceived, room: str, time: float) -> ET.Element:
    """The content of an ephemeral message, as a message (xep/mls.xml, "Ephemeral Content").

    :param room: bare JID
    :param time: the present, seconds since the Unix epoch
    :raises PeerError: it is of another account, room or time, or is neither typing nor a marker
    """
    envelope, now = Envelope.open(received.data, PROFILE), datetime.fromtimestamp(time, UTC)
    # XEP-0420: the sender's account and the room; and the time, for a server may show it again much later.
    for mismatch in mismatches(envelope, PROFILE, sender=received.sender.account, recipient=room, sent=now):
        raise mismatch
    assert envelope.time is not None  # the profile requires it
    if now - envelope.time > PROFILE.tolerance:
        raise AffixMismatch("ephemeral content of another time, which is shown again", Affix.TIME)
    xml = ET.Element("{jabber:client}message")
    xml.extend(to_stdlib(child) for child in envelope.content)
    if read_rich(xml).kind not in (Kind.TYPING, Kind.MARKER):
        raise InvalidError("ephemeral content that is neither typing nor a marker", _RULES)
    return xml
