"""A store that is copied before its owner renews its keys."""

from __future__ import annotations

from slixmpp_mls.client import Device, RoomGroup
from slixmpp_mls.store import MemoryStore

from .adversary import Adversary, Mask

__all__ = ["steal"]


def steal(adversary: Adversary) -> None:
    """Copy Bob's store; then he renews his keys, and all see it.

    Post-compromise security begins there, so what the thief does before is not judged.
    """
    scene = adversary.scene
    bob = scene.bob
    scene.settle()
    if not scene.is_member(bob) or bob.group.sending.commit_waits:
        return
    copy = MemoryStore(bob.store.account)
    with bob.store.transaction() as source, copy.transaction() as target:
        for space in source.spaces():
            for key, value in source.items(space):
                target.put(space, key, value)
    before = bob.group.mls.own_leaf.encryption_key
    scene.renew(bob)
    scene.settle()
    if not scene.is_member(bob) or bob.group.mls.own_leaf.encryption_key == before:
        return
    device = Device(copy, parameters=scene.world.parameters, random=scene.world.random)
    adversary.masks.append(Mask(device, RoomGroup(device, scene.world.room.jid).mls))
    adversary.stolen.add(before)
