"""The configuration that a MUC room (XEP-0045) needs to serve an encrypted group, and how to set it.

persistent        otherwise the group loses its room when all members are offline
members-only      membership is decided before entry, and members may read the archive
non-anonymous     the room shows each sender's real JID, which is compared with the credential
archived          the archive gives the order, and serves clients that were away
stanza ids        live stanzas carry their archive id
no password       accounts on the member list need none

A room is configured once, when it is created.  A room that exists already is examined but never changed: its
configuration is up to its owners.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

from ..errors import DeliveryError, Refused
from .archive import SID
from .forms import offered, submission
from .stream import MAM, Stream

MUC = "http://jabber.org/protocol/muc"
MUC_OWNER = f"{MUC}#owner"
_DISCO_INFO = "http://jabber.org/protocol/disco#info"
_DISCO_ITEMS = "http://jabber.org/protocol/disco#items"
_MAX_SERVICES = 32  # queried with disco#info at most

#: Features that the room must have, each with the name of the shortcoming if it is missing.
_REQUIRED = {
    "muc_persistent": "not-persistent",
    "muc_membersonly": "not-members-only",
    "muc_nonanonymous": "not-non-anonymous",
    MAM: "no-archive",
    SID: "no-stanza-id",
}
#: Features that the room must not have, each with the name of the shortcoming if it is present.
_FORBIDDEN = {"muc_passwordprotected": "password-protected"}

#: Fields of the owner's form.  Servers offer different fields; fields that are not offered are omitted.
_CONFIGURATION = {
    "muc#roomconfig_persistentroom": "1",
    "muc#roomconfig_membersonly": "1",
    "muc#roomconfig_whois": "anyone",
    "muc#roomconfig_publicroom": "0",
    "public_list": "0",  # ejabberd: the list of occupants
    "muc#roomconfig_moderatedroom": "0",
    "muc#roomconfig_passwordprotectedroom": "0",
    "muc#roomconfig_changesubject": "0",
    "muc#roomconfig_allowinvites": "0",
    "{http://prosody.im/protocol/muc}roomconfig_allowmemberinvites": "0",
    # The archive's field: Prosody's name, then ejabberd's.
    "muc#roomconfig_enablearchiving": "1",
    "mam": "1",
}
_MAX_USERS = "muc#roomconfig_maxusers"


async def features(stream: Stream, room: str) -> frozenset[str] | None:
    """The features that the room reports (XEP-0045 6.4); ``None`` if there is no such room.

    :raises DeliveryError: no answer, or a refusal of another kind.
    """
    try:
        answer = await stream.ask("get", room, Element(f"{{{_DISCO_INFO}}}query"))
    except Refused as error:
        if error.condition in ("item-not-found", "gone"):
            return None
        raise
    query = answer.find(f"{{{_DISCO_INFO}}}query")
    if query is None:
        raise DeliveryError(f"{room} does not describe itself")
    found = {feature.get("var", "") for feature in query.iterfind(f"{{{_DISCO_INFO}}}feature")}
    if any(identity.get("category") == "conference" for identity in query.iterfind(f"{{{_DISCO_INFO}}}identity")):
        found.add(MUC)
    return frozenset(found)


def shortcomings(found: frozenset[str] | None) -> tuple[str, ...]:
    """The names of all shortcomings, in a fixed order; empty for a suitable room."""
    if found is None:
        return ("not-found",)
    if MUC not in found:
        return ("not-a-room",)
    missing = [name for feature, name in _REQUIRED.items() if feature not in found]
    return (*missing, *(name for feature, name in _FORBIDDEN.items() if feature in found))


async def room_services(stream: Stream, domain: str) -> list[str]:
    """The MUC services that a server lists (XEP-0045 6.1), sorted.

    :raises DeliveryError: it does not answer
    """
    items = f"{{{_DISCO_ITEMS}}}"
    answer = await stream.ask("get", domain, Element(f"{items}query"))
    named = [item.get("jid", "") for item in answer.iterfind(f"{items}query/{items}item") if item.get("node") is None]
    return [jid for jid in sorted(named)[:_MAX_SERVICES] if jid and await is_room_service(stream, jid)]


async def is_room_service(stream: Stream, domain: str) -> bool:
    """Whether an address belongs to a MUC service; false if it does not answer."""
    try:
        found = await features(stream, domain)
    except DeliveryError:
        return False
    return found is not None and MUC in found


async def configure(stream: Stream, room: str, name: str | None = None) -> None:
    """Configure a room of ours as encrypted groups need it.

    :raises NotPermitted: we are not the owner.
    :raises DeliveryError: refused or unanswered.
    """
    answer = await stream.ask("get", room, Element(f"{{{MUC_OWNER}}}query"))
    fields = offered(answer.find(f"{{{MUC_OWNER}}}query"))
    values = {var: value for var, value in _CONFIGURATION.items() if var in fields}
    if name is not None:
        values["muc#roomconfig_roomname"] = name
    numbers = [int(option) for option in fields.get(_MAX_USERS, []) if option.isdecimal()]
    if numbers:
        values[_MAX_USERS] = str(max(numbers))
    query = Element(f"{{{MUC_OWNER}}}query")
    query.append(submission(f"{MUC}#roomconfig", values))
    await stream.ask("set", room, query)


async def destroy(stream: Stream, room: str, alternate: str | None = None, reason: str | None = None) -> None:
    """Destroy a room of ours; most servers destroy its archive too."""
    query = Element(f"{{{MUC_OWNER}}}query")
    element = SubElement(query, f"{{{MUC_OWNER}}}destroy")
    if alternate is not None:
        element.set("jid", alternate)
    if reason is not None:
        SubElement(element, f"{{{MUC_OWNER}}}reason").text = reason
    await stream.ask("set", room, query)
