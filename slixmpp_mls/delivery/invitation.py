"""Direct invitations to a room (XEP-0249), with additional elements in our namespace.

An invitation is sent to the account, not to a device, with type ``normal`` and a hint to store it.  The server keeps
it while the account is offline, and archives it for the account's other devices.  Therefore the same invitation may
arrive more than once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

from slixmpp import JID, ClientXMPP
from slixmpp.stanza import Message

from .archive import NS, SID, bare_jid

CONFERENCE = "jabber:x:conference"
HINTS = "urn:xmpp:hints"


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation to a room, addressed to us.

    :ivar room: bare JID.
    :ivar inviter: bare JID, vouched for by the servers only.
    :ivar elements: the elements of our namespace in the message.
    """

    room: JID
    inviter: JID
    reason: str | None
    password: str | None
    message_id: str | None
    elements: tuple[Element, ...]


def invitation(
    xmpp: ClientXMPP, room: str, account: str, elements: Iterable[Element] = (), reason: str | None = None
) -> Message:
    """The message that invites an account (a bare JID) to a room."""
    message = xmpp.make_message(mto=JID(account), mtype="normal")
    attributes = {"jid": room} if reason is None else {"jid": room, "reason": reason}
    SubElement(message.xml, f"{{{CONFERENCE}}}x", attributes)
    message.xml.extend(elements)
    if message.xml.find(f"{{{SID}}}origin-id") is None:
        SubElement(message.xml, f"{{{SID}}}origin-id", {"id": message["id"]})
    SubElement(message.xml, f"{{{HINTS}}}store")
    return message


def parse_invitation(xml: Element) -> Invitation | None:
    """The direct invitation in a ``<message/>``; ``None`` if there is none, or it lacks a valid inviter or room."""
    invite = xml.find(f"{{{CONFERENCE}}}x")
    if invite is None or xml.get("type") in ("error", "groupchat"):
        return None
    room = bare_jid(invite.get("jid"))
    inviter = bare_jid(xml.get("from"))
    if room is None or inviter is None or not room.user:
        return None
    return Invitation(
        room=room,
        inviter=inviter,
        reason=invite.get("reason"),
        password=invite.get("password"),
        message_id=xml.get("id"),
        elements=tuple(child for child in xml if str(child.tag).startswith(f"{{{NS}}}")),
    )
