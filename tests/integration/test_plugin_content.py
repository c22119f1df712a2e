"""What is in a message: other plugins' elements, what must stay outside, what must not come from there."""

from __future__ import annotations

import asyncio
import re
from xml.etree.ElementTree import Element, fromstring

import pytest
from slixmpp.xmlstream import StanzaBase

from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import AffixMismatch, MalformedError, PeerError, StanzaTooLarge, UsageError
from slixmpp_mls.rooms.encrypted_room import SentMessage

from .people import SECONDS, Cast, Person, all_agree, ciphertext, envelope, send_octets


async def test_other_plugins_elements_are_read_on_the_other_side(server: DevServer, cast: Cast) -> None:
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    first = await alice.say("Eye of newt and toe of fog")

    message = alice.client.make_message(mto=room, mtype="groupchat")
    message["id"] = "correction-1"
    message["body"] = cast.secret("Eye of newt and toe of frog")
    message["replace"]["id"] = first.origin_id
    sent = await alice.room().send(message)
    assert sent.origin_id == "correction-1"

    message = alice.client.make_message(mto=room, mtype="groupchat")
    alice.client.plugin["xep_0444"].set_reactions(message, first.origin_id, ["🐸", "🔥"])
    cast.secrets |= {"🐸", "🔥"}
    await alice.room().send(message)

    message = alice.client.make_message(mto=room, mtype="groupchat")
    message["reply"]["id"] = first.origin_id
    message["reply"]["to"] = f"{room}/somebody"
    message["body"] = cast.secret("Wool of bat and tongue of dog")
    message["subject"] = cast.secret("The cauldron")
    message["thread"] = cast.secret("thread-of-three-witches")
    await alice.room().send(message)

    await bob.until(lambda: len(bob.got("mls_message")) == 2)
    plain, reply = (event.message for event in bob.got("mls_message"))
    (correction,) = (event.message for event in bob.got("mls_correction"))
    (reaction,) = (event.message for event in bob.got("mls_reaction"))
    assert plain["id"] == first.origin_id
    assert (correction["id"], correction["replace"]["id"]) == ("correction-1", first.origin_id)
    assert correction["body"] == "Eye of newt and toe of frog"
    assert reaction["reactions"]["id"] == first.origin_id
    assert reaction["reactions"]["values"] == {"🐸", "🔥"}
    assert reaction["body"] == ""
    assert (reply["reply"]["id"], reply["body"]) == (first.origin_id, "Wool of bat and tongue of dog")
    assert (reply["subject"], reply["thread"]) == ("The cauldron", "thread-of-three-witches")
    for message in (plain, correction, reaction, reply):
        assert message["type"] == "groupchat"
        assert message["from"].bare == room
        assert message["to"] == bob.client.boundjid
    for person in (alice, bob):
        assert not person.got("mls_rejected")


async def test_typing_a_marker_and_a_retraction(server: DevServer, cast: Cast) -> None:
    """XEP-0085, XEP-0333 and XEP-0424, each inside of the encryption: three events, and none of them a message."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    sent = await alice.say("Is this a dagger which I see before me")
    await bob.hears("Is this a dagger which I see before me")

    states = "http://jabber.org/protocol/chatstates"
    for state in ("composing", "paused"):
        await bob.room().send(bob.room().message_with(Element(f"{{{states}}}{state}")))
    await bob.room().send(
        bob.room().message_with(Element("{urn:xmpp:chat-markers:0}displayed", {"id": sent.origin_id}))
    )
    await alice.until(lambda: len(alice.got("mls_typing")) == 2 and alice.got("mls_marker"))
    began, stopped = alice.got("mls_typing")
    assert (began.room, began.sender.account, began.active, began.state) == (room, bob.account, True, "composing")
    assert (stopped.sender.account, stopped.active, stopped.state) == (bob.account, False, "paused")
    (marker,) = alice.got("mls_marker")
    assert (marker.room, marker.sender.account) == (room, bob.account)
    assert (marker.about.id, marker.about.sender, marker.about.known) == (sent.origin_id, alice.account, True)
    wires = bob.stanzas_sent("<application")
    assert len(wires) == 3
    assert not any("chatstates" in wire or "chat-markers" in wire for wire in wires)

    await alice.room().retract(sent)
    await bob.until(lambda: bob.got("mls_retraction"))
    (retraction,) = bob.got("mls_retraction")
    assert (retraction.sender.account, retraction.body) == (alice.account, "")
    assert (retraction.retracts.id, retraction.retracts.sender) == (sent.origin_id, alice.account)
    assert not any("message-retract" in wire for wire in alice.stanzas_sent("<application"))
    assert len(bob.got("mls_message")) == 1
    assert not [event for event in alice.got("mls_message") if not event.own]
    for person in (alice, bob):
        assert not person.got("mls_rejected")


async def test_what_goes_over_the_wire(server: DevServer, cast: Cast) -> None:
    """EME (XEP-0380) and the storage hint (XEP-0334) in clear, no fallback body (XEP-0420), nothing else."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    message = alice.client.make_message(mto=room, mtype="groupchat", mbody=cast.secret("By the pricking of my thumbs"))
    message["subject"] = cast.secret("Something wicked")
    sent = await alice.room().send(message)
    await bob.hears("By the pricking of my thumbs")
    (wire,) = alice.stanzas_sent("<application")
    stanza = fromstring(wire)
    namespaces = [child.tag for child in stanza]
    assert namespaces == [
        "{urn:xmpp:mls:0}application",
        "{urn:xmpp:eme:0}encryption",
        "{urn:xmpp:sid:0}origin-id",
        "{urn:xmpp:hints}store",
    ]
    assert stanza[1].attrib == {"namespace": "urn:xmpp:mls:0", "name": "MLS"}
    assert stanza[2].get("id") == sent.origin_id == stanza.get("id")
    assert stanza.attrib.keys() <= {"id", "to", "type", "from", "{http://www.w3.org/XML/1998/namespace}lang"}
    commits = alice.stanzas_sent("<commit")
    # No sign of something to be read beside a Commit: it wakes no phone.
    assert all("urn:xmpp:eme:0" not in wire and "urn:xmpp:hints" in wire for wire in commits)
    assert "<welcome" in commits[0]  # in one stanza with the Commit


async def test_typing_and_markers_are_shown_and_kept_by_nobody(server: DevServer, cast: Cast) -> None:
    """Ephemeral content (mls.xml): encrypted, without a place in the archive, and nothing that comes later suffers."""
    room, (alice, bob) = await cast.meet(server, "alice", "bob")
    await alice.say("read this")
    await bob.hears("read this")
    heard = bob.got("mls_message")[-1]
    stored = len(server.archive(room))
    assert await bob.room().typing()
    typing = await alice.next("mls_typing")
    assert (typing.sender.account, typing.active) == (bob.account, True)
    assert await heard.displayed()
    marker = await alice.next("mls_marker")
    assert (marker.sender.account, marker.about.id) == (bob.account, heard.origin_id)
    (wire, *_) = bob.stanzas_sent("<ephemeral")
    tags = [child.tag.rpartition("}")[2] for child in fromstring(wire)]
    assert tags == ["ephemeral", "no-store", "no-permanent-store"]
    assert "composing" not in wire
    await bob.say("and this")
    await alice.hears("and this")
    archive = server.archive(room)
    assert len(archive) == stored + 1
    assert not [text for text in archive if "<ephemeral" in text]
    assert not alice.got("mls_rejected") + bob.got("mls_rejected") + alice.got("mls_unsure")
    await all_agree(alice, bob)


async def test_length_tells_little(prosody: DevServer, cast: Cast) -> None:
    """Messages are padded: two of similar length are of one size on the wire, but for the random part."""
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    for text in ("yes, my lord", "no, never, my lord"):
        await alice.say(text)
        await bob.hears(text)
    wires = alice.stanzas_sent("<application")
    sizes = [len(re.findall(r">([A-Za-z0-9+/=]+)</application", wire)[0]) for wire in wires]
    assert abs(sizes[0] - sizes[1]) < 200


async def test_a_message_for_servers_alone_is_no_message(prosody: DevServer, cast: Cast) -> None:
    room, (alice,) = await cast.meet(prosody, "alice")
    message = alice.client.make_message(mto=room, mtype="groupchat")
    with pytest.raises(UsageError):
        await alice.room().send(message)
    message.append(Element("{urn:xmpp:hints}no-store"))
    with pytest.raises(UsageError):
        await alice.room().send(message)
    with pytest.raises(UsageError):
        await alice.room().send("not in \x00 XML")
    assert not alice.stanzas_sent("<application")
    message["body"] = cast.secret("Now there is something")
    await (await alice.room().send(message)).confirmed
    assert "no-store" not in alice.stanzas_sent("<application")[0]


async def test_a_prepared_message_goes_out_once(prosody: DevServer, cast: Cast) -> None:
    """The same under the same id is one message; two messages with one id could not be told apart."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    message = alice.client.make_message(mto=room, mtype="groupchat", mbody=cast.secret("Tomorrow and tomorrow"))
    message["id"] = "the-same"
    alice.client.deaf = True  # the first is on its way until all have been sent
    sent = await alice.room().send(message)
    other = alice.client.make_message(mto=room, mtype="groupchat", mbody=cast.secret("to the last syllable"))
    other["id"] = "the-same"
    again, refused = await asyncio.gather(alice.room().send(message), alice.room().send(other), return_exceptions=True)
    assert isinstance(again, SentMessage)
    assert again.origin_id == sent.origin_id
    assert isinstance(refused, UsageError)
    alice.client.deaf = False
    alice.room().muc.suspect()  # what has been missed is in the archive
    await asyncio.wait_for(sent.confirmed, SECONDS)
    await alice.say("and tomorrow")
    await bob.hears("and tomorrow")
    assert bob.bodies == ["Tomorrow and tomorrow", "and tomorrow"]


async def test_too_long_a_message_is_refused_and_the_next_goes_out(prosody: DevServer, cast: Cast) -> None:
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    with pytest.raises(StanzaTooLarge):
        await alice.say("creeps in this petty pace " * 10_000)
    await alice.say("long but not too long " * 6_000)
    await alice.say("from day to day")
    await bob.hears("from day to day")
    assert len(bob.bodies) == 2


async def test_what_is_for_servers_does_not_come_from_inside(prosody: DevServer, cast: Cast) -> None:
    """XEP-0420, "Server-processed Elements"."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    extra = (
        "<store xmlns='urn:xmpp:hints'/>"
        f"<stanza-id xmlns='urn:xmpp:sid:0' by='{room}' id='forged'/>"
        "<delay xmlns='urn:xmpp:delay' stamp='2001-01-01T00:00:00Z'/>"
        "<occupant-id xmlns='urn:xmpp:occupant-id:0' id='forged'/>"
        "<x xmlns='http://jabber.org/protocol/muc#user'><status code='110'/></x>"
        "<application xmlns='urn:xmpp:mls:0' group='AAAA' epoch='1'>AAAA</application>"
        "<active xmlns='http://jabber.org/protocol/chatstates'/>"
    )
    await send_octets(alice, envelope(cast.secret("a charmed life"), alice.account, room, extra=extra))
    await bob.hears("a charmed life")
    (event,) = bob.got("mls_message")
    assert [child.tag for child in event.message.xml] == [
        "{jabber:client}body",
        "{http://jabber.org/protocol/chatstates}active",
    ]
    assert event.warnings == ()  # its time is long before the room's: it may have been written offline


async def test_a_body_in_clear_beside_the_ciphertext_is_ignored_and_reported(server: DevServer, cast: Cast) -> None:
    """XEP-0420: whoever relays a stanza could put words into it."""
    _, (alice, bob) = await cast.meet(server, "alice", "bob")
    alice.client.add_filter("out", add_clear_body)
    await alice.say("the encrypted truth")
    alice.client.del_filter("out", add_clear_body)
    await bob.hears("the encrypted truth")
    (event,) = bob.got("mls_message")
    assert event.message["body"] == "the encrypted truth"
    assert "a lie in clear" not in str(event.message)
    assert event.warnings == ("clear",)
    await alice.say("nothing beside it")
    await bob.hears("nothing beside it")
    assert bob.got("mls_message")[1].warnings == ()


def add_clear_body(stanza: StanzaBase) -> StanzaBase:
    xml = stanza.xml
    if xml.find("{urn:xmpp:mls:0}application") is not None:
        xml.append(fromstring("<body xmlns='jabber:client'>a lie in clear</body>"))
    return stanza


BAD_ENVELOPES: dict[str, tuple[dict[str, str], type[PeerError]]] = {
    "a document type": ({"head": "<!DOCTYPE envelope [<!ENTITY e 'x'>]>"}, MalformedError),
    "an entity": ({"head": "<!DOCTYPE e [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>", "extra": "&e;"}, MalformedError),
    "a processing instruction": ({"extra": "<?php phpinfo() ?>"}, MalformedError),
    "a comment": ({"extra": "<!-- by the way -->"}, MalformedError),
    "no namespace": ({"extra": "<body xmlns=''>x</body>"}, MalformedError),
    "not well-formed": ({"extra": "<open>"}, MalformedError),
    "too deep": ({"extra": "<a xmlns='x:y'>" * 5000 + "</a>" * 5000}, MalformedError),
}


async def test_bad_envelopes_are_refused_one_by_one(prosody: DevServer, cast: Cast) -> None:
    """RFC 6120 11.1, which the stream's parser does not enforce for what comes out of a ciphertext."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    bodies = 0
    for text, data, error in bad_envelopes(alice, bob, room):
        before = len(bob.got("mls_rejected"))
        await send_octets(alice, data)
        rejected = await bob.next("mls_rejected", before)
        assert isinstance(rejected.error, error), text
        assert rejected.claimed == alice.account
        await alice.say(f"still going after {text}")
        await bob.hears(f"still going after {text}")
        bodies += 1
    assert len(bob.bodies) == bodies  # nothing else came through
    assert len(bob.got("mls_rejected")) == bodies
    await bob.room().update()
    await all_agree(alice, bob)


def bad_envelopes(alice: Person, bob: Person, room: str) -> list[tuple[str, bytes, type[PeerError]]]:
    cases = [
        (text, envelope("wicked words", alice.account, room, **options), error)
        for text, (options, error) in BAD_ENVELOPES.items()
    ]
    return [
        *cases,
        ("another sender", envelope("wicked words", bob.account, room), AffixMismatch),
        ("another room", envelope("wicked words", alice.account, "elsewhere@rooms.example"), AffixMismatch),
        ("no affixes", b"<envelope xmlns='urn:xmpp:sce:1'><content/></envelope>", AffixMismatch),
        ("no envelope", b"wicked words", MalformedError),
        ("not UTF-8", b"\xff\xfe<envelope/>", MalformedError),
        ("nothing", b"", MalformedError),
    ]


async def test_a_member_may_carry_anothers_message_but_not_take_its_name(server: DevServer, cast: Cast) -> None:
    """The leaf says who sent it, whatever the room says; a contradiction is reported."""
    room, (alice, bob, carol) = await cast.meet(server, "alice", "bob", "carol")
    data = envelope(cast.secret("my own words"), alice.account, room)
    outgoing = alice.room().group.sending.compose(data)  # and never sent by herself
    await carol.post([*ciphertext(outgoing), Element("{urn:xmpp:hints}store")], room)
    await bob.hears("my own words")
    (event,) = bob.got("mls_message")
    assert event.sender.account == alice.account
    assert "claimed-sender" in event.warnings
    # It is in the room now, and so it is sent, as far as alice is concerned.
    assert (await alice.next("mls_sent")).origin_id == outgoing.origin_id
    await carol.hears("my own words")
    await all_agree(alice, bob, carol)
