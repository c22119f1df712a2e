"""Attacks of a member that once succeeded, on a real server; those of occupants are in :mod:`.test_takeover`.

The member has the plugin's state, and software of its own: it keeps what it should delete, and asks for no right.
"""

from __future__ import annotations

import pytest

from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import Replayed
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.schedule.message_protection import open_sender_data, protect_private, unprotect_private
from slixmpp_mls.mls.structures.framing import MLSMessage, PrivateMessage
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from slixmpp_mls.rooms.engine.parts import children
from slixmpp_mls.stanza import elements, read_payloads

from .people import Cast, Person, all_agree

pytestmark = pytest.mark.server


def encrypted_anew(group: Group, message: bytes) -> elements.Application:
    """What somebody has signed, under its next generation, in the state from before it was read (RFC 9420 6.3.1)."""
    body = MLSMessage.decode(message).body
    assert isinstance(body, PrivateMessage)
    secret = group.secrets.sender_data_secret
    sender = open_sender_data(group.suite, body, secret)
    content, tree = unprotect_private(group.suite, body, sender, group.secret_tree)
    key = group.tree.member(LeafIndex(sender.leaf_index)).signature_key
    signed = content.verify(group.suite, key, group.context.encode())
    again, _ = protect_private(group.suite, signed, tree, secret)
    return elements.Application(group.group_id, group.epoch, MLSMessage.wrap(again))


async def test_nobody_is_thrown_out_by_his_own_words(prosody: DevServer, cast: Cast) -> None:
    """RFC 9420 6.1, 9.2: the victim's signed message once more, under a generation that it has not used.

    It keeps its keys, for the message is no sign of a copied store; and its genuine next message is read.
    """
    room, (alice, bob, mallory) = await cast.meet(prosody, "alice", "bob", "mallory")
    before = mallory.room().group.mls
    await alice.say("I am the victim")
    await bob.hears("I am the victim")
    await mallory.hears("I am the victim")
    entry = await anext(_applications(mallory, room))
    await mallory.post(children((encrypted_anew(before, entry.data),)), room)
    await alice.until(lambda: alice.got("mls_rejected"))
    await bob.until(lambda: bob.got("mls_rejected"))
    for person in (alice, bob):
        (event,) = person.got("mls_rejected")
        assert isinstance(event.error, Replayed)
        assert not person.got("mls_group_lost")
    await alice.say("and still here")
    await bob.hears("I am the victim", "and still here")
    await alice.room().update()
    await all_agree(alice, bob, mallory, epoch=2)


async def _applications(person: Person, room: str):  # type: ignore[no-untyped-def]
    async for page in person.room(room).muc.archive.pages(None):
        for entry in page.entries:
            stanza = entry.stanza()
            for payload in () if stanza is None else read_payloads(stanza.xml)[0]:
                if isinstance(payload, elements.Application):
                    yield payload
