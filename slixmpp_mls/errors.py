"""Everything that can go wrong, in one tree.

::

    MLSError
    ├── UsageError            the caller: the call does not fit the state; nothing has changed
    │   ├── SuiteUnsupported  some members lack the cipher suite; `lacking` names them
    │   ├── GroupExists       the room has a group already; `group_id` names it
    │   ├── SentInClear       decrypted content, or a reply made of it by slixmpp, would go out in clear
    │   ├── SeveralInvitations  several accounts invite to one room; `inviters` names them
    │   ├── NotVouchedFor     the Authentication Service denies members who could read the message
    │   ├── AdministratorInDoubt  it does not vouch for clients of a future administrator; see `doubts`
    │   └── DeviceRetired     our account has retired this device; a new store makes a new device
    ├── PeerError             a peer: bad input from the network; it is dropped, nothing has changed
    │   ├── MalformedError    the input does not parse, or breaks a limit on size, depth or count
    │   └── InvalidError      the input parses, but breaks a rule; `section` names the rule
    │       ├── WrongEpoch    the group is not in that epoch (any more, or yet)
    │       ├── UnknownGroup  this client is no member of that group
    │       ├── NotForUs      a Welcome or a message that this client holds no key for
    │       ├── Replayed      the key was used before and is deleted (RFC 9420 9.2)
    │       ├── Premature     it refers to what has not come yet, and may be valid afterwards
    │       ├── MembershipUnproved  a partial member has no proof for the sender; `leaf_index` names the leaf
    │       ├── StateRolledBack  our own message, with a key that our state has not used: the state is an old copy
    │       ├── AffixMismatch an affix of the envelope is missing or contradicts the stanza (XEP-0420)
    │       ├── PolicyViolation  a Commit breaks the group's policy; `rule` and `offender` say how and who
    │       ├── PolicyTooNew  the group follows a version of the policy that we do not know
    │       └── ProtocolTooOld  a group, KeyPackage or request is of version 0.1 of this protocol; `what` says which
    ├── StoreError            the disk: nothing of the step was written
    │   ├── StoreLocked       another process has the store open
    │   ├── StoreMismatch     the store belongs to another account, or to a newer version
    │   ├── WrongPassphrase   the store is encrypted, and this passphrase or key file does not open it
    │   └── StoreFull         the disk is full
    ├── DeliveryError         the XMPP service refused or lost something
    │   ├── Refused           the service answered with an XMPP error; `condition` names it
    │   ├── NoAnswer          no answer in time; the request may have taken effect
    │   ├── RoomUnsuitable    the room cannot carry an encrypted group; `reasons` says why
    │   ├── RoomLost          the room does not let us in; `reason` says why
    │   ├── StrangersInRoom   the room in a destroyed one's place has members that the old group did not; `strangers`
    │   ├── RightsGained      it gives somebody rights that the old group did not give; `rights` says which
    │   ├── ArchiveGap        the room's archive lacks stanzas that we have not read
    │   ├── DowngradeSuspected  a server seems to hide KeyPackages of a better cipher suite
    │   ├── NodeUnusable      a node of our account is closed, or does not keep our items; `node` and `reason` say why
    │   ├── NotPermitted      we lack the affiliation, or the group's policy forbids it
    │   ├── StanzaTooLarge    the stanza exceeds the size that servers carry
    │   ├── NoUploadService   our server has no HTTP upload, which a large object needs
    │   ├── NobodyReachable   an account has no device with which a group can begin; `account` names it
    │   ├── NoGroupInfo       the room shows no GroupInfo for an external join; `reasons` says why not
    │   ├── BlobTooLarge      the object exceeds the size that the upload service accepts
    │   ├── TransferFailed    a web server does not accept or deliver a file
    │   ├── LoginFailed       there is no session with our server; `reason` says why
    │   └── Disconnected      the stream is closed
    └── DevServerError        the temporary server is not available, does not start or does not answer

The first two branches follow h11, which distinguishes local and remote errors.  After any of these errors the object
that raised it is as usable as before.  No message of these exceptions contains a secret or a plaintext.

The module is longer than others: it is one tree, of classes with a few lines each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = [
    "AdministratorInDoubt",
    "AffixMismatch",
    "ArchiveGap",
    "BlobTooLarge",
    "DeliveryError",
    "DevServerError",
    "DeviceRetired",
    "Disconnected",
    "DowngradeSuspected",
    "GroupExists",
    "InvalidError",
    "LoginFailed",
    "MLSError",
    "MalformedError",
    "MembershipUnproved",
    "NoAnswer",
    "NoGroupInfo",
    "NoUploadService",
    "NobodyReachable",
    "NodeUnusable",
    "NotForUs",
    "NotPermitted",
    "NotVouchedFor",
    "PeerError",
    "PolicyTooNew",
    "PolicyViolation",
    "Premature",
    "ProtocolTooOld",
    "Refused",
    "Replayed",
    "RightsGained",
    "RoomLost",
    "RoomUnsuitable",
    "SentInClear",
    "StanzaTooLarge",
    "StateRolledBack",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "StoreMismatch",
    "StrangersInRoom",
    "SuiteUnsupported",
    "TransferFailed",
    "UnknownGroup",
    "UsageError",
    "WrongEpoch",
    "WrongPassphrase",
    "suite_name",
]


def suite_name(number: object) -> str:
    """A cipher suite's number as documents write it: 1, 0xF001; a value that is no number, as it is given."""
    if not isinstance(number, int):
        return f"{number!r:.40}"
    return str(int(number)) if number < 0x100 else f"0x{number:04X}"


class MLSError(Exception):
    """Base of all errors of this package."""


class UsageError(MLSError):
    """The caller asked for something that the current state does not allow."""


class SentInClear(UsageError):
    """The content of an encrypted message, or what slixmpp has made of it, was to be sent in clear; it was not.

    :meth:`EncryptedMessage.reply` and :meth:`EncryptedRoom.send` send encrypted.
    """


class SeveralInvitations(UsageError):
    """Several accounts have invited us to a room, and they may mean different groups; nothing has changed.

    :ivar room: bare JID
    :ivar inviters: their bare JIDs
    """

    def __init__(self, room: str, inviters: Sequence[str]) -> None:
        super().__init__(f"several accounts invite to {room}: {', '.join(inviters)}; choose one of them")
        self.room = room
        self.inviters = tuple(inviters)


class NotVouchedFor(UsageError):
    """Nothing is encrypted for the group, because the Authentication Service denies members of it.

    Or because it has not been able to tell, so far, who somebody is that has come, or has let us in, uninvited.

    :ivar clients: their full identities
    """

    def __init__(self, clients: Sequence[str]) -> None:
        super().__init__(f"nothing is sent while the Authentication Service does not vouch for {', '.join(clients)}")
        self.clients = tuple(clients)


class AdministratorInDoubt(UsageError):
    """The Authentication Service does not vouch for clients of an account that would become an administrator.

    :ivar doubts: the reason for each of these clients, by its full identity
    """

    def __init__(self, doubts: Mapping[str, str]) -> None:
        told = "; ".join(f"{client}: {reason}" for client, reason in doubts.items())
        super().__init__(f"no administrator while there is doubt about its clients: {told}")
        self.doubts = dict(doubts)


class DeviceRetired(UsageError):
    """Our account has retired this device: nobody accepts its keys any more.  A new store makes a new device."""


class SuiteUnsupported(UsageError):
    """Some devices that should be in a group do not support its cipher suite.

    :ivar suite: its number
    :ivar lacking: devices without it (full identities), and accounts (bare JIDs) without a usable device
    """

    def __init__(self, suite: int, lacking: Sequence[str]) -> None:
        super().__init__(f"cipher suite {suite_name(suite)} is not supported by {', '.join(lacking)}")
        self.suite = suite
        self.lacking = tuple(lacking)


class GroupExists(UsageError):
    """The room has a group already.

    :ivar group_id: its id.
    """

    def __init__(self, room: str, group_id: bytes) -> None:
        super().__init__(
            f"{room} already has the group {group_id.hex()}: join it; if nobody is in it, adopt(anew=True)"
        )
        self.room = room
        self.group_id = group_id


class PeerError(MLSError):
    """Input from a peer was refused.  It has been dropped; no state has changed."""


class MalformedError(PeerError):
    """Input that does not parse: bad TLS encoding, XML, base64, or over a limit."""


class InvalidError(PeerError):
    """Input that parses and breaks a rule.

    :ivar section: the rule's place, such as ``"RFC 9420 7.3"``.
    """

    def __init__(self, message: str, section: str = "") -> None:
        super().__init__(f"{message} ({section})" if section else message)
        self.section = section


class WrongEpoch(InvalidError):
    """A message for an epoch in which the group is not (any more, or yet)."""


class UnknownGroup(InvalidError):
    """A message for a group that this client is no member of."""


class NotForUs(InvalidError):
    """A message that this client holds no key for."""


class Replayed(InvalidError):
    """A message whose key has been used and deleted (RFC 9420 9.2)."""


class Premature(InvalidError):
    """A message that depends on others which have not come: after them, the same message may be valid.

    A Commit refers to a proposal (RFC 9420 12.4), or the generation of a key is too far ahead (RFC 9420 15.3).
    """


class MembershipUnproved(InvalidError):
    """A message of a member for whom a partial client has seen no membership proof in the message's epoch.

    The message may be genuine: it can be processed once a proof is there.

    :ivar leaf_index: the leaf that the message names as its sender's
    """

    def __init__(self, leaf_index: int) -> None:
        super().__init__(f"leaf {leaf_index} is not proved", "draft-ietf-mls-partial Sender-Authenticated Messages")
        self.leaf_index = leaf_index


class StateRolledBack(InvalidError):
    """A message that we have signed, with a key that our state has not used yet (RFC 9420 9.2).

    The store is an older copy, or another process uses a copy.  To continue would reuse keys.
    """


class AffixMismatch(InvalidError):
    """An affix of a content envelope is missing, or contradicts the stanza around it.

    :ivar affix: ``"from"``, ``"to"``, ``"time"`` or ``"rpad"``.
    """

    def __init__(self, message: str, affix: str) -> None:
        super().__init__(message, "XEP-0420, affix elements")
        self.affix = affix


class PolicyViolation(InvalidError):
    """A Commit that the group's policy forbids; every member ignores it.

    :ivar rule: the rule's name in the table of :mod:`.policy.check`, such as ``"remove"``.
    :ivar offender: the client, ``account@server/device-id``, that asked for the change; None if no single client did.
    """

    def __init__(self, rule: str, message: str, offender: str | None = None) -> None:
        super().__init__(f"{message}, by {offender}" if offender else message, f"urn:xmpp:mls:0 policy, {rule}")
        self.rule = rule
        self.offender = offender


class PolicyTooNew(InvalidError):
    """A group follows a version of the policy that this package does not know.

    :ivar version: the group's.
    """

    def __init__(self, version: int) -> None:
        super().__init__(f"the group follows version {version} of the policy", "urn:xmpp:mls:0 policy")
        self.version = version


class ProtocolTooOld(InvalidError):
    """A group, KeyPackage or request is of version 0.1 of this protocol, which has other rules.

    :ivar what: ``"group"``, ``"KeyPackage"`` or ``"request"``.
    """

    version = "0.1"

    def __init__(self, what: str) -> None:
        super().__init__(f"a {what} of version {self.version} of the protocol", 'xep/mls.xml "Version 0.1"')
        self.what = what


class StoreError(MLSError):
    """The store failed; the transaction has been rolled back."""


class StoreLocked(StoreError):
    """Another process (or client) has this store open."""


class StoreMismatch(StoreError):
    """The store belongs to another account, or was written by a newer version."""


class WrongPassphrase(StoreError):
    """The store is encrypted, and the passphrase or key file is missing or wrong."""


class StoreFull(StoreError):
    """The disk is full; nothing of the step was written."""


class DeliveryError(MLSError):
    """The XMPP service refused, failed or did not answer."""


class Refused(DeliveryError):
    """An XMPP error (RFC 6120 8.3) answered a request.

    :ivar condition: the defined condition, such as ``"item-not-found"``.
    :ivar text: the server's own words, possibly empty.
    """

    def __init__(self, peer: str, condition: str, text: str = "") -> None:
        super().__init__(f"{peer} answered {condition}{f': {text}' if text else ''}")
        self.peer = peer
        self.condition = condition
        self.text = text


class NodeUnusable(DeliveryError):
    """A node of our account's does not do what we need, and could not be mended.

    :ivar node: its name.
    :ivar reason: for people.
    """

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"the node {node} of our account: {reason}")
        self.node = node
        self.reason = reason


class NoAnswer(DeliveryError):
    """A request got no answer in time; whether it took effect is unknown."""


class RoomUnsuitable(DeliveryError):
    """The room lacks what an encrypted group needs.

    :ivar reasons: one machine-readable name per shortcoming, such as ``"not-members-only"``.
    """

    def __init__(self, room: str, reasons: Sequence[str]) -> None:
        hint = ""
        if "not-a-room" in reasons:
            hint = "; a room's address is room@service, and for one person there is mls.conversation(account)"
        elif "not-found" in reasons:
            hint = "; check the address, or create the room"
        elif reasons:
            hint = "; its owner can change its configuration, or mls.create makes another room"
        super().__init__(f"{room} cannot host an encrypted group: {', '.join(reasons)}{hint}")
        self.room = room
        self.reasons = tuple(reasons)


_WHAT_TO_DO = {
    "banned": ": ask an administrator of the room",
    "not-a-member": ": ask an administrator of the room to add you",
    "not-found": ": check the address, or create the room; if the server has been set up anew, use a new store",
    "password-required": ": rooms with a password cannot be entered; ask its owner to remove the password",
    "unreadable": ": nothing of it is deleted, and it goes on where it can be read again; see slixmpp-mls store check",
}


class RoomLost(DeliveryError):
    """The room does not let us in.

    Unless it was destroyed, it is tried again after growing pauses and in each new session
    (:mod:`slixmpp_mls.rooms.lost_rooms`).

    :ivar reason: ``"destroyed"``, ``"banned"``, ``"not-a-member"``, ``"not-found"``,
        ``"password-required"``, ``"refused"``, or ``"unreadable"``: what the store has of our group there cannot be
        used; `text` says why, such as a cipher suite that this installation lacks.
    :ivar alternate: the successor that was named when the room was destroyed, if any.
    :ivar text: the room's explanation, possibly empty.
    """

    def __init__(self, room: str, reason: str, alternate: str | None = None, text: str = "") -> None:
        hint = _WHAT_TO_DO.get(reason, "")
        if reason == "destroyed" and alternate:
            hint = f": {alternate} takes its place"
        super().__init__(f"{room} is lost: {reason}{f' ({text})' if text else ''}{hint}")
        self.room = room
        self.reason = reason
        self.alternate = alternate
        self.text = text

    @property
    def gone(self) -> bool:
        """Whether there is no such room any more, for anybody."""
        return self.reason in ("destroyed", "not-found")


class StrangersInRoom(DeliveryError):
    """The room that is to take a destroyed one's place has members that the old group did not have.

    :ivar room: its bare JID.
    :ivar old: bare JID of the destroyed room.
    :ivar strangers: the members, as ``account@server/device-id``.
    """

    def __init__(self, room: str, old: str, strangers: Sequence[str]) -> None:
        some = ", ".join(strangers[:3]) + (f" and {len(strangers) - 3} more" if len(strangers) > 3 else "")
        super().__init__(
            f"{room} is to take the place of {old}, which did not have {some}, or not with these keys: join() goes in"
        )
        self.room = room
        self.old = old
        self.strangers = tuple(strangers)


class RightsGained(DeliveryError):
    """The group in the room that is to take a destroyed one's place gives more rights than the old group.

    :ivar room: its bare JID.
    :ivar old: bare JID of the destroyed room.
    :ivar rights: what somebody may do, or be, there only: for people.
    """

    def __init__(self, room: str, old: str, rights: Sequence[str]) -> None:
        super().__init__(f"{room} is to take the place of {old}, but there {'; '.join(rights[:3])}: join() goes in")
        self.room = room
        self.old = old
        self.rights = tuple(rights)


class ArchiveGap(DeliveryError):
    """The archive no longer holds the last stanza that we read: stanzas after it may be lost for good.

    :ivar after: the archive id that the room's archive no longer knows.
    """

    def __init__(self, room: str, after: str) -> None:
        super().__init__(f"the archive of {room} no longer holds the last stanza that was read")
        self.room = room
        self.after = after


class DowngradeSuspected(DeliveryError):
    """Devices claim to support a better cipher suite, but their servers have no KeyPackages for it.

    :ivar suite: number of the better suite
    :ivar chosen: number of the best one for which there are KeyPackages
    :ivar devices: full identities
    """

    def __init__(self, suite: int, chosen: int, devices: Sequence[str]) -> None:
        super().__init__(
            f"the servers of {', '.join(devices)} have no KeyPackages for cipher suite {suite_name(suite)}, although"
            f" these devices claim to support it; without it the group would use cipher suite {suite_name(chosen)}"
        )
        self.suite = suite
        self.chosen = chosen
        self.devices = tuple(devices)


class NotPermitted(DeliveryError):
    """The room's affiliations or the group's policy forbid it."""


class StanzaTooLarge(DeliveryError):
    """The stanza would be larger than servers are known to carry.

    :ivar size: octets needed.
    :ivar limit: octets allowed.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a stanza of {size} octets is over the limit of {limit}")
        self.size = size
        self.limit = limit


class NobodyReachable(DeliveryError):
    """An account has no device with which a group can be begun: nothing has been made.

    :ivar account: bare JID
    """

    def __init__(self, account: str, reason: str) -> None:
        super().__init__(f"{account} cannot be reached: {reason}")
        self.account = account


class NoGroupInfo(DeliveryError):
    """The room shows no GroupInfo with which its group could be joined now (RFC 9420 12.4.3.2).

    :ivar reasons: why the GroupInfos that it shows are unusable; empty if it shows none.
    """

    def __init__(self, room: str, reasons: Sequence[str] = ()) -> None:
        super().__init__(f"no GroupInfo of the current epoch in {room}{': ' * bool(reasons)}{'; '.join(reasons)}")
        self.room = room
        self.reasons = tuple(reasons)


class NoUploadService(DeliveryError):
    """Our server offers no HTTP upload (XEP-0363)."""


class BlobTooLarge(DeliveryError):
    """The object exceeds the size that the upload service or the receivers accept.

    :ivar size: octets needed.
    :ivar limit: octets allowed.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"an upload of {size} octets is over the limit of {limit}")
        self.size = size
        self.limit = limit


class TransferFailed(DeliveryError):
    """A web server could not be reached, or did not accept or deliver a file.

    :ivar temporary: whether a later attempt may succeed.
    """

    def __init__(self, message: str, *, temporary: bool) -> None:
        super().__init__(message)
        self.temporary = temporary


class LoginFailed(DeliveryError):
    """There is no session with our account's server.

    :ivar account: bare JID
    :ivar server: its address, as far as we know it
    :ivar reason: ``"password"``, ``"certificate"``, ``"unreachable"`` (nobody answers there), ``"closed"`` (it has
        closed the connection) or ``"refused"`` (it says why not)
    :ivar temporary: whether a later attempt may succeed although our user changes nothing; so with a certificate that
        does not verify any more, since the server's operator renews it
    """

    def __init__(self, account: str, server: str, reason: str, text: str, *, temporary: bool) -> None:
        super().__init__(f"{account} cannot log in at {server}: {text}")
        self.account = account
        self.server = server
        self.reason = reason
        self.temporary = temporary


class Disconnected(DeliveryError):
    """The stream is closed; queued messages are kept and sent later."""


class DevServerError(MLSError):
    """The temporary server of :mod:`slixmpp_mls.devserver` is not available, does not start or does not answer."""
