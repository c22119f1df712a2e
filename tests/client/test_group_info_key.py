"""The key of the GroupInfos in a room: who has it, when it changes, and what it encrypts (mls-recovery.xml)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slixmpp_mls.client import Device, Rejected
from slixmpp_mls.client.group.group_info_key import (
    EncryptedGroupInfo,
    GroupInfoKey,
    as_element,
    open_group_info,
    seal_group_info,
)
from slixmpp_mls.client.group.group_infos import group_infos_in
from slixmpp_mls.client.storage.records import MembershipState
from slixmpp_mls.errors import InvalidError, MalformedError, PeerError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.proposals import Add, GroupContextExtensions, Remove
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.policy import ExternalJoins
from slixmpp_mls.stanza import elements
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.testing import Participant, World
from tests.tampering import tampered

from .people import BOB, CAROL, DAVE, again, three
from .test_rejoin import lose


def infos(world: World) -> list[elements.GroupInfo]:
    """The GroupInfos in the room, the newest first."""
    found = group_infos_in((incoming, incoming.payloads) for incoming in world.room.archive())
    return [info for _, info in reversed(found)]


def key_of(person: Participant) -> GroupInfoKey:
    key = person.group.room_state.group_info_key
    assert key is not None
    return key


def set_joins(world: World, person: Participant, joins: ExternalJoins) -> None:
    policy = replace(person.group.policy, external_joins=joins)
    extensions = policy.replaced_in(person.group.mls.context.extensions)
    person.commit(GroupContextExtensions(extensions))
    world.settle()


def test_all_members_have_one_key_and_joiners_get_it() -> None:
    world, alice, bob, carol = three()
    assert key_of(alice) == key_of(bob) == key_of(carol)
    assert key_of(alice).epoch == 1  # the first epoch that has more than one member
    dave = world.person(DAVE)
    alice.commit(*alice.adding(DAVE))
    world.settle()
    assert key_of(dave) == key_of(alice)
    assert key_of(dave).epoch == 1
    (info, *_) = infos(world)
    assert info.key_epoch == 1
    assert len({person.group.external_commits.open(info) for person in (alice, bob, carol, dave)}) == 1


def test_a_removal_begins_a_new_key_that_the_removed_do_not_have() -> None:
    world, alice, bob, carol = three()
    before = key_of(carol)
    held = carol.group.room_state
    alice.commit(*alice.removing(CAROL))
    world.settle()
    assert key_of(alice) == key_of(bob) != before
    assert key_of(alice).epoch == alice.epoch
    assert held.group_info_key is None  # deleted with the other keys
    (info, *_) = infos(world)
    with pytest.raises(InvalidError, match="another time"):
        open_group_info(info, before, CipherSuite.get(1))
    # Whoever claims that the key it has is of the right epoch does not get further.
    with pytest.raises(InvalidError, match="decryption"):
        open_group_info(info, replace(before, epoch=key_of(alice).epoch), CipherSuite.get(1))


def test_a_return_does_not_begin_a_new_key() -> None:
    """Or each return would shut out the others that have to come back."""
    world, alice, bob, carol = three()
    before = key_of(alice)
    lose(bob)
    lose(carol)
    alice.commit()
    world.settle()
    bob.enter(infos(world)[0])
    world.settle()
    assert bob.group.is_member
    assert key_of(alice) == key_of(bob) == before
    carol.enter(infos(world)[0])  # the one that bob has sent
    world.settle()
    assert carol.group.is_member
    assert world.agree()
    alice.commit(*alice.removing(BOB), *again(alice, bob))  # removed and added by the same Commit
    world.settle()
    assert key_of(bob) == key_of(alice) == before


def test_a_client_that_missed_commits_returns_after_a_restart() -> None:
    world, alice, bob, _ = three()
    lose(bob)
    for _ in range(3):
        alice.commit()
        world.settle()
    bob.restart()
    assert bob.group.state is MembershipState.LOST
    bob.enter(infos(world)[0])
    world.room.lose()
    bob.restart()  # with its external Commit under way
    bob.resend()
    world.settle()
    assert bob.group.is_member
    assert key_of(bob) == key_of(alice)
    assert world.agree()


def test_a_client_that_missed_a_removal_cannot_read_and_asks() -> None:
    world, alice, bob, carol = three()
    lose(bob)
    alice.commit(*alice.removing(CAROL))
    world.settle()
    assert not bob.group.external_commits.can_read(infos(world)[0])
    with pytest.raises(InvalidError):
        bob.enter(infos(world)[0])
    bob.ask()
    world.settle()
    alice.commit()
    world.settle()
    assert bob.group.is_member
    assert key_of(bob) == key_of(alice)
    assert not carol.group.is_member


def test_in_clear_only_where_anybody_may_come_in() -> None:
    world, alice, bob, carol = three()
    alice.commit()
    world.settle()
    assert infos(world)[0].key_epoch is not None
    set_joins(world, alice, ExternalJoins.ANYBODY)
    (info, *_) = infos(world)
    assert info.key_epoch is None
    MLSMessage.decode(info.data)
    dave = world.person(DAVE)
    dave.read()
    dave.enter(info)
    world.settle()
    assert dave.group.is_member
    # A newcomer derives the key of each epoch, so it shares the one that begins when the door is closed.
    assert key_of(dave) == key_of(alice)
    assert key_of(dave).epoch == dave.epoch
    set_joins(world, alice, ExternalJoins.DEVICES)
    assert key_of(dave) == key_of(alice) == key_of(bob) == key_of(carol)
    assert infos(world)[0].key_epoch == alice.epoch
    set_joins(world, alice, ExternalJoins.NEVER)
    assert infos(world)[0].epoch == alice.epoch - 1  # none was sent with that


def test_what_was_changed_on_the_way_is_refused() -> None:
    world, alice, bob, _ = three()
    alice.commit()
    world.settle()
    (info, *_) = infos(world)
    sealed, suite, key = EncryptedGroupInfo.decode(info.data), CipherSuite.get(1), key_of(bob)
    changed = [
        replace(info, epoch=info.epoch + 1),
        replace(info, group=b"another group"),
        replace(info, key_epoch=(info.key_epoch or 0) + 1),
        replace(info, data=replace(sealed, key_epoch=9).encode()),
        replace(info, data=replace(sealed, salt=bytes(32)).encode()),
        replace(info, data=replace(sealed, salt=b"short").encode()),
        replace(info, data=replace(sealed, ciphertext=tampered(sealed.ciphertext)).encode()),
        replace(info, data=replace(sealed, ciphertext=b"").encode()),
        replace(info, data=info.data[:-1]),
        replace(info, data=b"?"),
        replace(info, key_epoch=None),
    ]
    for each in changed:
        with pytest.raises(PeerError):
            MLSMessage.decode(open_group_info(each, key, suite))
    MLSMessage.decode(open_group_info(info, key, suite))


def test_what_is_inside_agrees_with_the_element() -> None:
    """A member seals a GroupInfo of another epoch: the attributes are compared after the decryption as well."""
    world, alice, bob, _ = three()
    alice.commit()
    world.settle()
    old = alice.group.mls.group_info()
    alice.commit()
    world.settle()
    group = alice.group.mls
    sealed = seal_group_info(key_of(alice), alice.group.policy, group, old)
    with pytest.raises(InvalidError, match="another epoch"):
        bob.group.external_commits.open(as_element(group.group_id, group.epoch, sealed))


def test_no_two_are_sealed_alike() -> None:
    """A fresh salt each time: members that commit at once use no AEAD key and nonce twice."""
    world, alice, bob, _ = three()
    alice.commit()
    bob.commit()
    world.settle()
    sealed = [
        EncryptedGroupInfo.decode(payload.data)
        for stanza in world.room.archive()
        for payload in stanza.payloads
        if isinstance(payload, elements.GroupInfo)
    ]
    assert len(sealed) == 3  # that of the Commit that added bob and carol, and these two
    assert len({each.salt for each in sealed}) == 3


def test_a_key_that_cannot_be_one_is_refused() -> None:
    suite = CipherSuite.get(1)
    with pytest.raises(InvalidError):
        GroupInfoKey(3, b"k" * 32).checked(suite, 2)
    with pytest.raises(InvalidError):
        GroupInfoKey(1, b"k" * 31).checked(suite, 2)
    assert GroupInfoKey(0, b"").checked(suite, 2) is None
    with pytest.raises(MalformedError):
        GroupInfoKey.decode(b"?")


def test_a_client_without_the_key_says_so_and_sends_none() -> None:
    world, alice, bob, _ = three()
    with alice.group.room_state.change() as change:
        change.put_group_info_key(None)
    alice.restart()
    assert alice.group.room_state.group_info_key is None
    dave = world.person(DAVE)
    outgoing = alice.commit(*alice.adding(DAVE))
    assert not any(isinstance(payload, elements.GroupInfo) for payload in outgoing.payloads)
    world.settle()
    assert dave.group.is_member
    assert dave.group.room_state.group_info_key is None
    assert key_of(bob).epoch == 1
    alice.commit(Remove(bob.group.roster.leaves_of(BOB)[0]))
    world.settle()
    assert key_of(alice) == key_of(dave)
    assert not alice.said(Rejected)


def test_the_key_is_in_no_repr() -> None:
    _, alice, _, _ = three()
    key = key_of(alice)
    assert key.key.hex() not in repr(key)
    assert repr(key.key) not in repr(key)


def test_a_client_of_the_same_name_with_another_key_begins_a_new_key() -> None:
    """A device that was lost or stolen, and set up again: its old keys read no GroupInfo any more."""
    world, alice, bob, _ = three()
    before = key_of(bob)
    world.people.remove(bob)
    again = Device(MemoryStore(BOB))
    object.__setattr__(again, "identity", bob.device.identity)
    package = again.key_packages.make(CipherSuite.get(1), world.now).key_package
    assert package.leaf_node.signature_key != bob.group.mls.own_leaf.signature_key
    alice.commit(Remove(LeafIndex(bob.group.mls.own_index)), Add(package))
    world.settle()
    (info, *_) = infos(world)
    assert key_of(alice).epoch == info.key_epoch == alice.epoch == 2
    with pytest.raises(InvalidError, match="another time"):
        open_group_info(info, before, CipherSuite.get(1))
