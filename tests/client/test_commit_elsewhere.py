"""Commits and Welcomes that no stanza holds (the XEP's "Large Groups and Stanza Limits"), without servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls.client import CommitLost, GroupChanged, Incoming, Outgoing, Rejected, Unsure
from slixmpp_mls.client.group.actions import Ignore
from slixmpp_mls.client.group.placement import Placement
from slixmpp_mls.errors import MalformedError, StanzaTooLarge
from slixmpp_mls.mls.group.commit_creation import CommitBundle, CommitDraft, CommitOptions
from slixmpp_mls.mls.registry import ExtensionType
from slixmpp_mls.mls.structures.extensions import Extension
from slixmpp_mls.mls.structures.proposals import AnyProposal
from slixmpp_mls.stanza import elements
from slixmpp_mls.stanza.blob import MAX_BLOB, BlobReference, longest
from slixmpp_mls.stanza.elements import CommitLocation, RoomElement, WelcomeLocation
from slixmpp_mls.stanza.locations import CommitPlace, WelcomePlace, commit_place
from slixmpp_mls.testing import Participant, World

from .people import ALICE, DAVE, only, three


def commit_elsewhere(
    who: Participant, *proposals: AnyProposal, placement: Placement = Placement.COMMIT_ELSEWHERE
) -> Outgoing:
    draft = who.group.sending.draft_commit(proposals, who.world.now)
    outgoing = who.group.sending.finish_commit(draft, placement=placement)
    assert outgoing.payloads == ()
    return who.post(outgoing)


def sent(who: Participant) -> Sequence[RoomElement]:
    """The payloads of the latest stanza in the room."""
    who.world.room.deliver_all()
    return who.world.room.archive(who.account)[-1].payloads


def test_a_commit_by_its_location() -> None:
    world, alice, bob, carol = three()
    epoch = alice.epoch
    commit_elsewhere(alice)
    (location,) = sent(alice)
    assert isinstance(location, CommitLocation)
    assert location.epoch == epoch
    world.settle()
    assert {person.epoch for person in (alice, bob, carol)} == {epoch + 1}
    assert only(bob.events[-1:], GroupChanged).by.account == ALICE
    assert only(alice.events[-1:], GroupChanged).by.account == ALICE
    assert world.agree()
    carol.send(b"after it")
    world.settle()
    assert alice.texts[-1] == bob.texts[-1] == b"after it"


def test_a_commit_and_a_welcome_longer_than_any_element() -> None:
    """As the first path among 10,000, or in a post-quantum suite among 700: no element holds it, but a blob does."""
    world, alice, bob, _ = three()
    dave = world.person(DAVE)
    long = CommitOptions(padding=lambda length: elements.MAX_MESSAGE)
    draft = alice.group.sending.draft_commit(alice.adding(DAVE), world.now, options=long)
    extension = Extension(ExtensionType.APPLICATION_ID, bytes(elements.MAX_MESSAGE))

    def with_long_welcome(draft: CommitDraft, *, in_welcome: Sequence[Extension], **others: Any) -> CommitBundle:
        return finish(draft, in_welcome=[*in_welcome, extension], **others)

    group = alice.group.mls
    finish = group.finish_commit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(group), "finish_commit", lambda _, *each, **others: with_long_welcome(*each, **others))
        outgoing = alice.group.sending.finish_commit(draft, placement=Placement.ALL_ELSEWHERE)
    assert all(len(octets) > elements.MAX_MESSAGE for octets in outgoing.uploads)
    alice.post(outgoing)
    world.settle()
    assert world.agree()
    assert dave.epoch == bob.epoch
    dave.send(b"came by a long Welcome")
    world.settle()
    assert alice.texts[-1] == bob.texts[-1] == b"came by a long Welcome"


def test_a_welcome_by_its_location() -> None:
    world, alice, bob, _ = three()
    dave, other = world.person(DAVE), world.person("hecate@h.example")
    commit_elsewhere(alice, *alice.adding(DAVE), placement=Placement.ALL_ELSEWHERE)
    location, welcome = sent(alice)
    assert isinstance(welcome, WelcomeLocation)
    assert welcome.epoch == location.epoch + 1
    # Only whom the location names fetches the Welcome.
    (incoming,) = (each for each in world.room.read(DAVE, None) if welcome in each.payloads)
    assert other.group.processing.examine(incoming, world.now).fetch is None
    assert dave.group.processing.examine(incoming, world.now).fetch == WelcomePlace.read(welcome.data).blob
    world.settle()
    assert world.agree()
    assert dave.epoch == bob.epoch
    dave.send(b"came by a location")
    world.settle()
    assert alice.texts[-1] == b"came by a location"


def test_a_commit_that_is_not_there_makes_unsure_and_no_more() -> None:
    """A Commit that nobody can fetch does not silence the room: its epoch goes on."""
    world, alice, bob, carol = three()
    commit_elsewhere(alice)
    world.web.clear()
    world.room.deliver_all()
    before = bob.group.mls.pieces()
    for who in (bob, carol):
        events = who.read()
        assert [type(event) for event in events] == [Rejected, Unsure]
        assert only(events[-1:], Unsure).reasons == ("unavailable",)
        assert who.group.holds
        who.events += who.group.certainty.become_sure(world.now)  # nobody has another state
        assert not who.group.holds
    assert bob.group.mls.pieces() == before
    # Alice has moved on alone; the others end the epoch by another Commit, and go on.
    alice.read()
    bob.commit()
    world.settle()
    assert bob.epoch == carol.epoch == alice.epoch
    assert bob.group.mls.epoch_authenticator == carol.group.mls.epoch_authenticator
    assert bob.group.mls.epoch_authenticator != alice.group.mls.epoch_authenticator
    carol.send(b"we go on")
    world.settle()
    assert bob.texts[-1] == b"we go on"
    assert "undecryptable" in only(alice.events[-1:], Unsure).reasons  # and finds out where the group is


def test_a_client_that_cannot_fetch_it_finds_that_others_can() -> None:
    """The one that has missed the Commit learns of the next epoch by a member's answer."""
    world, alice, bob, carol = three()
    commit_elsewhere(alice)
    place = only_place(world)
    content = world.web.pop(place)
    world.room.deliver_all()
    carol.read()
    assert carol.group.holds
    world.web[place] = content
    bob.read()
    alice.read()
    inquiry = carol.post(carol.group.certainty.inquire(world.now))
    world.room.deliver_all()
    alice.read()
    (asked,) = (each for each in inquiry.payloads if isinstance(each, elements.Inquiry))
    judged = alice.group.certainty.judge(asked)
    assert judged is not None
    (answer,) = alice.group.certainty.answer(judged, world.now).payloads
    assert isinstance(answer, elements.Answer)
    carol.group.certainty.take_answer(answer, world.now)
    assert carol.group.returning


def only_place(world: World) -> BlobReference:
    (place,) = world.web
    return place


def location_by(who: Participant, place: BlobReference, *, signer: int | None = None) -> CommitLocation:
    group = who.group.mls
    index = int(group.own_index) if signer is None else signer
    signed = commit_place(group.suite, group.signature_key, index, group.group_id, group.epoch, place)
    return CommitLocation(group.group_id, group.epoch, signed.encode())


def stanza(who: Participant, *payloads: RoomElement) -> Incoming:
    return Incoming("not kept", payloads, claimed=who.account, origin_id="x", occupant=f"{who.world.room.jid}/x")


def test_no_commit_or_welcome_is_fetched_that_is_longer_than_any_may_be() -> None:
    world, alice, _, carol = three()
    for size in (MAX_BLOB, MAX_BLOB + 1):
        location = location_by(carol, replace(longest(), size=size))
        step = alice.group.processing.examine(stanza(carol, location), world.now)
        assert (step.fetch is not None) is (size == MAX_BLOB)
    dave = world.person(DAVE)
    commit_elsewhere(alice, *alice.adding(DAVE), placement=Placement.ALL_ELSEWHERE)
    commit, welcome = sent(alice)
    place = WelcomePlace.read(welcome.data)
    for size in (MAX_BLOB, MAX_BLOB + 1):
        other = replace(welcome, data=replace(place, blob=replace(place.blob, size=size)).encode())
        step = dave.group.processing.examine(stanza(alice, commit, other), world.now)
        assert (step.fetch is not None) is (size == MAX_BLOB)


def test_nothing_is_fetched_unless_a_member_has_signed_it() -> None:
    """Otherwise any occupant could make all members contact a server of its choice."""
    world, alice, bob, carol = three()
    good = location_by(carol, longest())
    place = CommitPlace.decode(good.data)
    forged = {
        "another blob": replace(place, blob=replace(place.blob, url="https://evil.example/")),
        "another size": replace(place, blob=replace(place.blob, size=5)),
        "another signer": replace(place, signer=int(bob.group.mls.own_index)),
        "no signature": replace(place, signature=b""),
        "a leaf that is blank": replace(place, signer=3),
        "a leaf that the tree does not have": replace(place, signer=2**31),
    }
    for changed in forged.values():
        step = alice.group.processing.examine(stanza(carol, replace(good, data=changed.encode())), world.now)
        assert step.fetch is None
        assert isinstance(step.action, Ignore)
        assert not step.action.unsure
        assert [type(event) for event in step.action.events] == [Rejected]
    for octets in (b"", good.data[:-1], good.data + b"\0"):
        payload = replace(good, data=octets or b"\0")
        assert alice.group.processing.examine(stanza(carol, payload), world.now).fetch is None
    assert alice.group.processing.examine(stanza(carol, good), world.now).fetch == longest()


def test_a_location_of_another_epoch_or_group_counts_for_nothing() -> None:
    world, alice, bob, carol = three()
    good = location_by(carol, longest())
    bob.commit()
    world.settle()
    assert alice.group.processing.examine(stanza(carol, good), world.now).fetch is None
    # The signature covers group and epoch: the same location in the next epoch is forged.
    step = alice.group.processing.examine(stanza(carol, replace(good, epoch=alice.epoch)), world.now)
    assert step.fetch is None
    assert isinstance(step.action, Ignore)
    assert "no member has signed" in str(only(list(step.action.events), Rejected).error)


def test_a_member_can_make_others_wait_once_in_an_epoch() -> None:
    world, alice, _, carol = three()
    world.room.post([location_by(carol, longest())], carol.account, "first")
    world.room.deliver_all()
    assert [type(event) for event in alice.read()] == [Rejected, Unsure]
    alice.group.certainty.become_sure(world.now)
    other = replace(longest(), url="https://other.example/")
    step = alice.group.processing.examine(stanza(carol, location_by(carol, other)), world.now)
    assert step.fetch is None
    assert isinstance(step.action, Ignore)
    assert "another Commit elsewhere" in str(only(list(step.action.events), Rejected).error)
    # In the next epoch it may again: the Commit in between shows that others go on.
    alice.commit()
    world.settle()
    assert alice.group.processing.examine(stanza(carol, location_by(carol, other)), world.now).fetch == other


def test_a_location_that_leads_to_something_else() -> None:
    """What is fetched is judged like any Commit; it may be used once."""
    world, alice, bob, carol = three()
    contents = [b"no MLSMessage", carol.group.sending.compose(b"a message").payloads[0].data]
    for who, octets in zip((bob, carol), contents, strict=True):
        place = world.upload(octets)
        location = location_by(who, place)
        incoming = stanza(who, location).with_blob(place, octets)
        before = alice.group.mls.pieces()
        step = alice.group.processing.examine(incoming, world.now)
        assert isinstance(step.action, Ignore)
        assert [type(event) for event in step.action.events] == [Rejected]
        alice.group.applying.accept(step, world.now)
        assert alice.group.mls.pieces() == before
        again = alice.group.processing.examine(stanza(who, location), world.now)
        assert again.fetch is None


def test_the_first_commit_of_an_epoch_counts_wherever_it_is() -> None:
    world, alice, bob, carol = three()
    commit_elsewhere(alice)
    bob.commit()
    world.settle()
    assert [event for event in bob.events if isinstance(event, CommitLost)]
    assert world.agree()
    bob.commit()
    commit_elsewhere(alice)
    world.settle()
    assert [event for event in alice.events if isinstance(event, CommitLost)]
    assert world.agree()
    assert not alice.group.sending.commit_waits
    assert {person.epoch for person in (alice, bob, carol)} == {3}


def test_a_restart_before_and_after_the_upload() -> None:
    world, alice, bob, _ = three()
    draft = alice.group.sending.draft_commit([], world.now)
    alice.group.sending.finish_commit(draft, placement=Placement.COMMIT_ELSEWHERE)
    alice.restart()
    assert alice.group.sending.commit_waits
    (outgoing,) = alice.group.outstanding()
    (octets,) = outgoing.uploads
    placed = alice.group.sending.placed(outgoing.origin_id, [world.upload(octets)])
    assert placed is not None
    alice.restart()
    (again,) = alice.group.outstanding()
    assert again == placed  # the same octets, though it is uploaded somewhere
    world.room.post(again, alice.account)
    world.settle()
    assert world.agree()
    assert bob.epoch == alice.epoch == 2
    assert not alice.group.outstanding_ids()
    alice.restart()
    assert not list(alice.group.outstanding())


def test_the_epoch_ends_while_a_commit_is_uploaded() -> None:
    world, alice, bob, _ = three()
    draft = alice.group.sending.draft_commit([], world.now)
    outgoing = alice.group.sending.finish_commit(draft, placement=Placement.COMMIT_ELSEWHERE)
    bob.commit()
    world.settle()
    assert alice.group.sending.placed(outgoing.origin_id, [longest()]) is None
    assert not alice.group.sending.commit_waits


def test_where_a_commit_goes_is_known_before_anything_is_written() -> None:
    world, alice, *_ = three()
    world.person(DAVE)
    draft = alice.group.sending.draft_commit(alice.adding(DAVE), world.now)
    before = alice.group.mls.pieces()

    def without(*kinds: type[RoomElement]) -> Placement:
        def fits(payloads: Sequence[RoomElement]) -> None:
            if any(isinstance(payload, kinds) for payload in payloads):
                raise StanzaTooLarge(300_000, 240_000)

        placement, due = alice.group.sending.place_commit(draft, fits)
        assert len(due) == int(placement)
        return placement

    assert without() is Placement.IN_STANZA
    assert without(elements.Commit) is Placement.COMMIT_ELSEWHERE
    assert without(elements.Commit, elements.Welcome) is Placement.ALL_ELSEWHERE
    with pytest.raises(StanzaTooLarge):
        without(elements.Commit, elements.CommitLocation)
    assert alice.group.mls.pieces() == before
    assert not alice.group.sending.commit_waits
    draft = alice.group.sending.draft_commit([], world.now)
    with pytest.raises(StanzaTooLarge):  # there is no Welcome whose absence would help
        without(elements.Commit, elements.CommitLocation)


def test_locations_of_nothing() -> None:
    assert WelcomePlace.read(WelcomePlace((b"r" * 32,), longest()).encode()).new_members == (b"r" * 32,)
    for members in ((), (b"r" * 65,), (b"r",) * 4097):
        with pytest.raises((MalformedError, ValueError)):
            WelcomePlace.read(WelcomePlace(members, longest()).encode())


def test_a_later_reader_of_the_archive() -> None:
    """CAROL was away: she reads the location in its place, and follows."""
    world, alice, bob, carol = three()
    world.people.remove(carol)
    commit_elsewhere(alice)
    world.settle()
    bob.send(b"since then")
    world.settle()
    carol.read()
    assert carol.texts[-1] == b"since then"
    assert carol.group.mls.epoch_authenticator == alice.group.mls.epoch_authenticator
    assert carol.said(GroupChanged)[-1].by.account == ALICE
