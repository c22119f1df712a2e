"""Following a destroyed room to its alternate venue (XEP-0045 10.9).

Whoever destroys a room may name another room in its place.  Only the server says so: the name is no evidence of who is
there.  Therefore nothing is followed by itself, and a program that asks for it (:meth:`.MLS.follow`) gets the other
room's group only if the keys there are known: each member has the name and the signature key of a leaf in the old
group.  The server of the old room, and the servers of its members, thus gain nothing; they could otherwise name a room
with devices of their own under the members' names.

A member that conspires with a server, or owns the old room, gains nothing either.  It can make a group of the same
members, since KeyPackages are public, and name itself the administrator there.  So the other group may give nobody more
rights than the old one does (:func:`rights_gained`).

The old group's state stays as it is, until the application leaves it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..client import RoomGroup
from ..errors import RightsGained, RoomLost, StrangersInRoom, UsageError
from ..identity import ClientIdentity
from ..policy import GroupView, RoomPolicy
from ..policy.roster import Roster
from .encrypted_room import EncryptedRoom
from .registry import room_address

__all__ = ["MOST_MOVES", "follow_alternate", "rights_gained", "strangers_to"]

#: Rooms in a row that are followed, each of which names the next.
MOST_MOVES = 5


async def follow_alternate(
    old: EncryptedRoom, known: dict[str, EncryptedRoom], join: Callable[[str], Awaitable[EncryptedRoom]]
) -> EncryptedRoom:
    """See :meth:`.MLS.follow`.

    :param old: the room that was destroyed
    :param known: our rooms, by bare JID
    :param join: see :meth:`.MLS.join`
    """
    lost, address = old.lost, old.lost and old.lost.alternate
    if lost is None or not address:
        raise UsageError(f"nobody has named a room that takes the place of {old.jid}")
    view = old.group.room_state.require_member().view  # before anything is asked: without it nobody there can be known
    seen = {old.jid}
    while True:
        address = room_address(address)
        if len(seen) > MOST_MOVES or address in seen:
            raise lost
        seen.add(address)
        there = known.get(address)
        by_invitation = there is not None and there.is_member
        try:
            new = there if there is not None and by_invitation else await join(address)
            break
        except RoomLost as error:  # moved again meanwhile
            if not error.alternate:
                raise
            lost, address = error, error.alternate
    strangers = strangers_to(view, new.group)
    gained = rights_gained(view, new.group.policy, new.group.roster)
    if (strangers or gained) and not by_invitation:
        await new.leave(all_devices=False)
    if strangers:
        raise StrangersInRoom(new.jid, old.jid, strangers)
    if gained:
        raise RightsGained(new.jid, old.jid, gained)
    return new


def strangers_to(view: GroupView, group: RoomGroup) -> tuple[str, ...]:
    """The members of a group whose keys another group does not have, sorted.

    :param view: the other group
    """
    roster = view.roster
    indexes = (index for client in roster.clients() if (index := roster.leaf_of(client)) is not None)
    known = {(roster.at(index), view.leaf(index).signature_key) for index in indexes if roster.counts(index)}
    found = ((ClientIdentity.from_leaf(leaf), leaf.signature_key) for _, leaf in group.mls.members())
    return tuple(sorted(str(client) for client, key in found if (client, key) not in known))


_RIGHTS = ("may_add", "may_remove", "may_change_policy", "may_change_subject")


def rights_gained(view: GroupView, policy: RoomPolicy, roster: Roster) -> tuple[str, ...]:
    """What a group allows that another one does not, for people; empty if there is nothing.

    :param view: the other group
    :param policy: the group's
    :param roster: of its members
    """
    old = view.policy
    named = set(policy.administrators) - set(old.administrators)
    gained = [f"{account} is named as an administrator" for account in sorted(named)]
    if old.conversation and not policy.conversation:
        gained.append("it is no conversation of two")
    if policy.external_joins > old.external_joins:
        gained.append("more people may join by themselves")
    if policy.own_devices and not old.own_devices:
        gained.append("accounts may add their own devices")
    if old.post_quantum and not policy.post_quantum:
        gained.append("it may be in a cipher suite that is not post-quantum")
    if old.x509_only and (not policy.x509_only or policy.roots != old.roots):
        gained.append("it does not demand the same certificates")
    for name in _RIGHTS:
        before, after = getattr(old, name), getattr(policy, name)
        # While no named administrator is in a group, all of its members are administrators (mls-policy).
        may = (account for account in sorted(roster.accounts()) if policy.permits(after, account, roster))
        more = [account for account in may if not old.permits(before, account, view.roster)]
        gained += [f"{account} has the right {name}" for account in more]
        if after > before and not more:
            gained.append(f"more people may have the right {name}")
    return tuple(gained)
