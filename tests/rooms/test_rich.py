"""Replies, reactions, corrections, retractions: each finds the message that is meant, or is refused."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest

from slixmpp_mls.errors import InvalidError, MalformedError, PolicyViolation, UsageError
from slixmpp_mls.rooms.content import seal_elements
from slixmpp_mls.rooms.encrypted_message import EncryptedMessage
from slixmpp_mls.rooms.rich import KEPT, Reference
from slixmpp_mls.stanza.rich import MARKERS, SENDER, STATES, read_rich
from slixmpp_mls.testing import World

from ..client.people import ALICE, BOB, CAROL
from .people import Bot, until

LIKE = "urn:xmpp:reactions:0"


async def bots(world: World, *accounts: str, administrators: tuple[str, ...] = (ALICE,)) -> list[Bot]:
    policy = world.open_policy(*administrators)
    people = [Bot(person) for person in world.group(*accounts, policy=policy)]
    for bot in people:
        await bot.rooms.resume()
    await until(lambda: all(bot.room.live for bot in people))
    return people


async def heard(world: World, bot: Bot, name: str, count: int = 1) -> Any:
    def there() -> bool:
        world.room.deliver_all()
        return len(bot.got(name)) >= count

    await until(there)
    return bot.got(name)[count - 1]


async def say(world: World, sender: Bot, text: str, *others: Bot) -> list[EncryptedMessage]:
    before = [len(other.got("mls_message")) for other in others]
    await sender.room.send(text)
    return [await heard(world, bot, "mls_message", count + 1) for bot, count in zip(others, before, strict=True)]


def post(world: World, sender: Bot, *elements: str) -> None:
    """What a member with other software sends."""
    content = [ET.fromstring(element) for element in elements]
    data = seal_elements(content, sender.person.account, world.room.jid, world.now)
    outgoing = sender.room.group.sending.compose(data)
    world.room.post(outgoing, sender.person.account)


async def refused(world: World, bot: Bot, kind: type[Exception], count: int = 1) -> None:
    rejected = await heard(world, bot, "mls_rejected", count)
    assert isinstance(rejected.error, kind)


async def test_each_kind_has_its_event_and_its_message(world: World) -> None:
    alice, bob = await bots(world, ALICE, BOB)
    (message,) = await say(world, alice, "When shall we three meet again?", bob)
    assert (message.reply_to, message.reactions, message.replaces, message.retracts) == (None, (), None, None)

    await message.reply("When the hurlyburly's done")
    answer = await heard(world, alice, "mls_message")
    assert answer.body == "When the hurlyburly's done"
    assert answer.reply_to == Reference(message.origin_id, ALICE, None, known=True)

    await message.react("👍", "🐸", "👍")
    reaction = await heard(world, alice, "mls_reaction")
    assert reaction.reactions == ("👍", "🐸")
    assert reaction.reacts_to == Reference(message.origin_id, ALICE, None, known=True)
    await message.react()
    assert (await heard(world, alice, "mls_reaction", 2)).reactions == ()

    sent = await bob.room.send("Fare is foul")
    await heard(world, alice, "mls_message", 2)
    await bob.room.correct(sent, "Fair is foul")
    correction = await heard(world, alice, "mls_correction")
    assert (correction.body, correction.replaces.id, correction.replaces.known) == (
        "Fair is foul",
        sent.origin_id,
        True,
    )
    assert correction.replaces.archive_id == alice.got("mls_message")[1].archive_id
    await correction.reply("And foul is fair")  # an answer to a correction is one to the message
    assert (await heard(world, bob, "mls_message", 2)).reply_to.id == sent.origin_id

    await bob.room.retract(sent)
    retraction = await heard(world, alice, "mls_retraction")
    assert (retraction.retracts.id, retraction.retracts.sender, retraction.body) == (sent.origin_id, BOB, "")
    assert [len(bot.got("mls_message")) for bot in (alice, bob)] == [2, 2]
    assert not alice.got("mls_rejected") + bob.got("mls_rejected")


async def test_what_it_is_about_is_known_after_a_restart(world: World) -> None:
    alice, bob = await bots(world, ALICE, BOB)
    sent = await alice.room.send("Double, double")
    message = await heard(world, bob, "mls_message")
    alice.rooms.close()
    await message.react("🔥")
    world.room.deliver_all()
    alice.person.restart()
    again = Bot(alice.person)
    await again.rooms.resume()
    reaction = await heard(world, again, "mls_reaction")
    assert reaction.reacts_to == Reference(sent.origin_id, ALICE, None, known=True)


async def test_only_the_own_account_corrects(world: World) -> None:
    """XEP-0308, Business Rules: a correction is by the sender of the message."""
    alice, bob, carol = await bots(world, ALICE, BOB, CAROL)
    (message, _) = await say(world, alice, "Fair is foul", bob, carol)
    with pytest.raises(UsageError, match="own account"):
        await message.correct("Foul is foul")
    body = "<body xmlns='jabber:client'>Foul is foul</body>"
    post(world, bob, f"<replace xmlns='urn:xmpp:message-correct:0' id='{message.origin_id}'/>", body)
    await refused(world, carol, InvalidError)
    await refused(world, alice, InvalidError)
    assert not carol.got("mls_correction") + alice.got("mls_correction")


async def test_the_author_and_administrators_retract(world: World) -> None:
    """The account itself, and administrators: by the policy inside of the group, not by the room's affiliations."""
    alice, bob, carol = await bots(world, ALICE, BOB, CAROL)
    of_bob, _ = await say(world, bob, "A drum, a drum", alice, carol)
    (of_alice, at_carol) = await say(world, alice, "Macbeth doth come", bob, carol)
    with pytest.raises(UsageError, match="administrators"):
        await of_alice.retract()
    retract = "<retract xmlns='urn:xmpp:message-retract:1' xmlns:mls='urn:xmpp:mls:0' id='{}' mls:sender='{}'/>"
    post(world, bob, retract.format(at_carol.origin_id, ALICE))
    await refused(world, carol, PolicyViolation)
    await of_bob.retract()
    retraction = await heard(world, carol, "mls_retraction")
    assert (retraction.sender.account, retraction.retracts.sender) == (ALICE, BOB)


async def test_the_same_id_by_another_account_takes_nothing_over(world: World) -> None:
    alice, bob, carol = await bots(world, ALICE, BOB, CAROL)
    message, _ = await say(world, alice, "Fair is foul", bob, carol)
    stanza = carol.xmpp.make_message(mto=world.room.jid, mbody="I am Alice's message", mtype="groupchat")
    stanza["id"] = message.origin_id
    await carol.room.send(stanza)
    await heard(world, bob, "mls_message", 2)
    await message.react("👍")
    assert (await heard(world, alice, "mls_reaction")).reacts_to.sender == ALICE
    post(world, bob, f"<reactions xmlns='{LIKE}' id='{message.origin_id}'><reaction>x</reaction></reactions>")
    await refused(world, alice, InvalidError)  # several accounts, and none is named
    named = f"xmlns:mls='urn:xmpp:mls:0' mls:sender='{BOB}'"
    post(world, bob, f"<reactions xmlns='{LIKE}' id='{message.origin_id}' {named}><reaction>x</reaction></reactions>")
    await refused(world, alice, InvalidError, 2)
    assert len(alice.got("mls_reaction")) == 1


async def test_what_is_from_before_our_time_is_not_known(world: World) -> None:
    alice, bob = await bots(world, ALICE, BOB)
    post(world, bob, f"<reactions xmlns='{LIKE}' id='earlier'><reaction>👍</reaction></reactions>")
    assert (await heard(world, alice, "mls_reaction")).reacts_to == Reference("earlier", None, None, known=False)
    await say(world, bob, "This is known", alice)
    references = alice.room.references
    for number in range(KEPT):
        references.remember(f"id-{number}", BOB)
    first = alice.got("mls_message")[0]
    reaction = ET.Element(f"{{{LIKE}}}reactions", {"id": first.origin_id})
    message = ET.Element("{jabber:client}message")
    message.append(reaction)
    assert not references.resolve(message, BOB).about.known  # the memory is bounded
    reaction.set("id", f"id-{KEPT - 1}")
    assert references.resolve(message, BOB).about == Reference(f"id-{KEPT - 1}", BOB, None, known=True)


async def test_a_state_or_a_marker_alone_is_no_message(world: World) -> None:
    alice, bob = await bots(world, ALICE, BOB)
    (message,) = await say(world, alice, "Fair is foul", bob)
    post(world, bob, f"<composing xmlns='{STATES}'/>")
    typing = await heard(world, alice, "mls_typing")
    assert (typing.sender.account, typing.active, typing.state) == (BOB, True, "composing")
    post(world, bob, f"<displayed xmlns='{MARKERS}' id='{message.origin_id}'/>")
    assert (await heard(world, alice, "mls_marker")).about == Reference(message.origin_id, ALICE, None, known=True)
    post(world, bob, "<body xmlns='jabber:client'>Words</body>", f"<active xmlns='{STATES}'/>")
    assert (await heard(world, alice, "mls_message")).body == "Words"
    assert not alice.got("mls_rejected")


async def test_mentions(world: World) -> None:
    alice, bob = await bots(world, ALICE, BOB)
    post(
        world,
        bob,
        "<body xmlns='jabber:client'>Alice, Carol, nobody</body>",
        f"<mention xmlns='urn:xmpp:mentions:0' jid='{ALICE}' begin='0' end='5'/>",
        f"<reference xmlns='urn:xmpp:reference:0' type='mention' uri='xmpp:{CAROL}?message' begin='7' end='12'/>",
        "<mention xmlns='urn:xmpp:mentions:0' jid='not a jid'/>",
        f"<reference xmlns='urn:xmpp:reference:0' type='data' uri='xmpp:{BOB}'/>",
    )
    assert (await heard(world, alice, "mls_message")).mentions == (ALICE, CAROL)


async def test_answers_to_a_message_that_comes_again_have_the_same_ids(world: World) -> None:
    alice, bob = await bots(world, ALICE, BOB)
    (message,) = await say(world, alice, "Fair is foul", bob)
    first = await message.react("👍")
    again = EncryptedMessage(
        **{
            name: getattr(message, name)
            for name in ("room", "message", "sender", "epoch", "sent", "archive_id", "delayed")
        }
    )
    assert (await again.react("👍")).origin_id == first.origin_id


@pytest.mark.parametrize("emojis", [("",), ("  ",), tuple(map(str, range(17))), (5,)])
async def test_reactions_that_cannot_be_sent(world: World, emojis: tuple[Any, ...]) -> None:
    alice, bob = await bots(world, ALICE, BOB)
    (message,) = await say(world, alice, "Fair is foul", bob)
    with pytest.raises(UsageError, match="16 reactions"):
        await message.react(*emojis)


@pytest.mark.parametrize(
    "content",
    [
        f"<reactions xmlns='{LIKE}'/>",
        f"<reactions xmlns='{LIKE}' id='{'x' * 257}'/>",
        f"<reactions xmlns='{LIKE}' id='x'><reaction/></reactions>",
        f"<reactions xmlns='{LIKE}' id='x'><reaction>{'x' * 65}</reaction></reactions>",
        f"<reactions xmlns='{LIKE}' id='x'>{'<reaction>x</reaction>' * 17}</reactions>",
        f"<reactions xmlns='{LIKE}' id='x'/><reactions xmlns='{LIKE}' id='y'/>",
        f"<reactions xmlns='{LIKE}' id='x'/><retract xmlns='urn:xmpp:message-retract:1' id='x'/>",
        "<replace xmlns='urn:xmpp:message-correct:0' id=''/>",
        "<mention xmlns='urn:xmpp:mentions:0' jid='a@b'/>" * 65,
    ],
)
def test_what_is_refused(content: str) -> None:
    with pytest.raises(MalformedError):
        read_rich(ET.fromstring(f"<message xmlns='jabber:client'>{content}</message>"))


def test_the_sender_is_a_bare_address_or_not_named() -> None:
    for value, sender in ((BOB, BOB), (f"{BOB}/phone", None), ("", None), ("x" * 5000, None)):
        element = ET.Element(f"{{{LIKE}}}reactions", {"id": "x", SENDER: value})
        message = ET.Element("{jabber:client}message")
        message.append(element)
        about = read_rich(message).about
        assert about is not None
        assert about.sender == sender
    reply = "<reply xmlns='urn:xmpp:reply:0' id='x' to='coven@rooms.example/bob'/>"
    found = read_rich(ET.fromstring(f"<message xmlns='jabber:client'>{reply}</message>"))
    assert found.reply_to is not None
    assert found.reply_to.sender is None  # an occupant is a claim of the room's


@pytest.mark.parametrize("content", [None, b"", b"octets", 5, ""])
async def test_what_is_no_message_is_refused_by_name(world: World, content: Any) -> None:
    alice, bob = await bots(world, ALICE, BOB)
    with pytest.raises(UsageError, match=r"empty|not (NoneType|bytes|int)"):
        await alice.room.send(content)
    await say(world, alice, "after it", bob)
    assert [message.body for message in bob.got("mls_message")] == ["after it"]
