"""What must hold after each step, whatever the adversary does.

Each function yields what is wrong, in words.  None of them asks the policy: the ground of each judgement is who has
which private key, and what honest people have wished (:mod:`.scene`).
"""

from __future__ import annotations

from collections.abc import Iterator

from slixmpp_mls.client import MessageReceived
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.mls.structures.leaf_node import LeafNode
from slixmpp_mls.policy import ExternalJoins, RoomPolicy
from slixmpp_mls.stanza.code_points import NEWCOMER
from slixmpp_mls.testing import Participant

from .adversary import Adversary
from .scene import HONEST, Scene

__all__ = ["BUDGETS", "broken"]

BUDGETS = {
    "seconds of one step": 5.0,  # machines are shared, and slow at times
    "octets of one store": 6_000_000,
    "rows of one store": 6_000,
    "pending proposals": 256 + 64,
}


def broken(scene: Scene, adversary: Adversary) -> list[str]:
    """All that does not hold."""
    return [
        *_names(scene, adversary),
        *_rights(scene),
        *_keys_of_members(scene),
        *_confidentiality(scene, adversary),
        *_authenticity(scene),
        *_budgets(scene),
    ]


def _names(scene: Scene, adversary: Adversary) -> Iterator[str]:
    """No leaf with an account's name without proof."""
    genuine = {
        person.device.identity: person.device.signature_key(person.group.mls.suite).public for person in scene.members()
    }
    for viewer in scene.members():
        policy = viewer.group.policy
        per_account: dict[str, int] = {}
        leaves = [leaf for _, leaf in viewer.group.mls.members()]
        proven = {ClientIdentity.from_leaf(leaf).account for leaf in leaves if not _is_marked(leaf)}
        for index, leaf in viewer.group.mls.members():
            client = ClientIdentity.from_leaf(leaf)
            per_account[client.account] = per_account.get(client.account, 0) + 1
            where = f"{viewer} has leaf {index} of {client}"
            unproven = _is_marked(leaf)
            if unproven and policy.external_joins is not ExternalJoins.ANYBODY:
                yield f"{where}: somebody came in by himself where nobody may"
            if client.account in HONEST:
                if unproven and client.account not in proven:
                    continue  # a name that nobody in the group has, and that counts for nothing
                if leaf.encryption_key in adversary.made:
                    yield f"{where}: its key is the adversary's"
                elif client not in scene.invited:
                    yield f"{where}: nobody who may has let it in"
                elif client in genuine and leaf.signature_key != genuine[client]:
                    yield f"{where}: its signature key is another one"
            elif not unproven and client.account not in scene.admitted:
                yield f"{where}: nobody who may has let this account in"
            if client.account in scene.expelled and _follows(scene, viewer, scene.expelled[client.account]):
                yield f"{where}: the account was removed, and nobody has let it in again"
        for account, number in per_account.items():
            if number > 4:
                yield f"{viewer} has {number} clients of {account}, more than the policy allows"


def _is_marked(leaf: LeafNode) -> bool:
    return any(entry.extension_type == NEWCOMER for entry in leaf.extensions)


def _follows(scene: Scene, viewer: Participant, epoch: int) -> bool:
    """Whether a member has gone through the same epoch as Alice."""
    hers, his = scene.history.get(id(scene.alice), {}), scene.history.get(id(viewer), {})
    return viewer.epoch >= epoch and epoch in his and his[epoch] == hers.get(epoch)


def _rights(scene: Scene) -> Iterator[str]:
    """No right exercised without proof: nobody is removed, and no policy made, but by the wish of who may."""
    for viewer in scene.members():
        present = {client for client in scene.invited if viewer.group.roster.leaf_of(client) is not None}
        for client in scene.seen.get(id(viewer), set()) - present - scene.leaving:
            yield f"{viewer} does not have {client} any more, whom nobody has removed that may"
        found = RoomPolicy.required_in(viewer.group.mls.context.extensions)
        if found != scene.policy:
            yield f"{viewer} has another policy: {found}"
        removed = viewer.group.room_state.require_member().view.removed
        for entry in () if removed is None else removed.clients:
            out = {client.account for client in scene.leaving | scene.put_out}
            if entry.account in HONEST and entry.account not in out:
                yield f"{viewer} has {entry} on the list of removed clients, whom nobody has removed"


def _keys_of_members(scene: Scene) -> Iterator[str]:
    """No honest member loses its keys: whoever has been a member stays one, unless it was rightly removed."""
    for person in scene.people:
        if person.group.state is MembershipState.MEMBER or id(person) not in scene.seen:
            continue
        if person.device.identity not in scene.leaving and person.account not in scene.removed:
            last = [type(event).__name__ for event in person.events[-3:]]
            yield f"{person} has lost the group ({person.group.state.name}): {last}"


def _confidentiality(scene: Scene, adversary: Adversary) -> Iterator[str]:
    """Nobody without a key in the sender's tree reads what is sent."""
    for state in adversary.states():
        own = state.own_leaf.encryption_key
        for spoken in scene.spoken[-6:]:
            if own in spoken.readers or (adversary.made | adversary.stolen) & spoken.readers:
                continue
            if adversary.reads(state, spoken.message) == spoken.data:
                yield f"the adversary reads {spoken.data!r}, which was for none of its keys"


def _authenticity(scene: Scene) -> Iterator[str]:
    """What is heard in an honest person's name has been said by it, and is heard once."""
    said = {(spoken.speaker, spoken.data) for spoken in scene.spoken}
    known = {client.account for client in scene.invited}
    for person in scene.people:
        heard: set[tuple[str, bytes]] = set()
        for event in person.events:
            if not isinstance(event, MessageReceived) or event.sender.account not in known:
                continue
            what = (event.sender.account, event.data)
            if what not in said:
                yield f"{person} hears {event.data!r} of {event.sender}, who has never said it"
            if what in heard:
                yield f"{person} hears {event.data!r} twice"
            heard.add(what)


def _budgets(scene: Scene) -> Iterator[str]:
    """Work and storage stay within budgets."""
    seconds, what = scene.slowest
    if seconds > BUDGETS["seconds of one step"]:
        yield f"{what} has taken {seconds:.1f} s"
    for person in scene.people:
        if person.group.state is MembershipState.MEMBER:
            waiting = len(person.group.mls.pending_proposals)
            if waiting > BUDGETS["pending proposals"]:
                yield f"{person} keeps {waiting} proposals"


def storage(person: Participant) -> tuple[int, int]:
    """Rows and octets of somebody's store."""
    rows = octets = 0
    with person.store.transaction() as transaction:
        for space in transaction.spaces():
            for key, value in transaction.items(space):
                rows, octets = rows + 1, octets + len(key) + len(value)
    return rows, octets


def overfull(scene: Scene) -> list[str]:
    """Stores beyond their budgets; looked at less often, for it takes time."""
    wrong = []
    for person in scene.people:
        rows, octets = storage(person)
        if rows > BUDGETS["rows of one store"] or octets > BUDGETS["octets of one store"]:
            wrong.append(f"the store of {person} has {rows} rows, {octets} octets")
    return wrong
