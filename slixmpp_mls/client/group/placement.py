"""Whether a Commit and its Welcome are sent in a stanza, or uploaded (the XEP's "Large Groups and Stanza Limits").

::

    draft ──► choose ──► IN_STANZA ─────────────────────────────────────► outbox ──► stanza
                └──────► COMMIT_ELSEWHERE, ALL_ELSEWHERE ──► outbox ──► upload ──► location in the outbox ──► stanza

A Commit is in the outbox, encrypted, before it is uploaded, like any other message of ours before it is sent.  Its
location is stored before it is sent, too, because we recognize the reflection by it.  If we are interrupted in between,
the same octets are uploaded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from ...errors import StanzaTooLarge
from ...mls.structures.framing import MLSMessage
from ...mls.structures.welcome import Welcome
from ...stanza import elements
from ...stanza.blob import MAX_BLOB, OVERHEAD, BlobReference, longest
from ...stanza.elements import MAX_MESSAGE, RoomElement
from ...stanza.locations import CommitPlace, WelcomePlace
from ..storage.records import OutboxRecord, UploadRecord
from .actions import Fits, Outgoing
from .group_info_key import as_element

__all__ = ["Placement", "as_outgoing", "check_lengths", "choose", "located", "to_upload"]

_LONGEST_SIGNATURE = 4627  # octets: ML-DSA-87


class Placement(IntEnum):
    """Where a Commit and its Welcome are."""

    IN_STANZA = 0
    COMMIT_ELSEWHERE = 1
    ALL_ELSEWHERE = 2

    def upload(self) -> UploadRecord | None:
        """The record of one that has not been uploaded yet; None if there is nothing to upload."""
        return None if self is Placement.IN_STANZA else UploadRecord(welcome=self is Placement.ALL_ELSEWHERE)


def check_lengths(*messages: bytes) -> None:
    """Check that each message can be the text of an element.

    :raises StanzaTooLarge: one is longer
    """
    for message in messages:
        if len(message) > MAX_MESSAGE:
            raise StanzaTooLarge(len(message), MAX_MESSAGE)


def to_upload(record: OutboxRecord, placement: Placement) -> tuple[bytes, ...]:
    """The octets to upload, the Commit first.

    :raises StanzaTooLarge: nobody would fetch so many
    """
    parts = {
        Placement.IN_STANZA: (),
        Placement.COMMIT_ELSEWHERE: (record.message,),
        Placement.ALL_ELSEWHERE: (record.message, record.welcome),
    }[placement]
    for octets in parts:
        if len(octets) + OVERHEAD > MAX_BLOB:
            raise StanzaTooLarge(len(octets), MAX_BLOB - OVERHEAD)
    return parts


def choose(
    record: OutboxRecord, group_id: bytes, epoch: int, fits: Fits, at_most: Placement = Placement.ALL_ELSEWHERE
) -> Placement:
    """The first placement with which the stanza fits.

    :param epoch: the one that the Commit ends
    :param at_most: what may be elsewhere
    :raises StanzaTooLarge: by `fits`; with none
    """
    too_large: StanzaTooLarge | None = None
    for placement in Placement:
        if placement > at_most or (placement is Placement.ALL_ELSEWHERE and not record.welcome):
            break
        try:
            to_upload(record, placement)
            fits(as_outgoing(record, group_id, epoch, _measure(record, placement)).payloads)
        except StanzaTooLarge as error:
            too_large = error
        else:
            return placement
    assert too_large is not None
    raise too_large


def _measure(record: OutboxRecord, placement: Placement) -> UploadRecord | None:
    """A record with locations that are as long as any."""
    upload = placement.upload()
    if upload is None:
        return None
    location = CommitPlace(longest(), 0, bytes(_LONGEST_SIGNATURE)).encode()
    welcome = WelcomePlace(_new_members(record.welcome), longest()).encode() if upload.welcome else b""
    return UploadRecord(upload.welcome, location, welcome)


def _new_members(welcome: bytes) -> tuple[bytes, ...]:
    """The KeyPackageRefs that a Welcome of ours names."""
    body = MLSMessage.decode(welcome).body
    assert isinstance(body, Welcome)
    return tuple(entry.new_member for entry in body.secrets)


def as_outgoing(record: OutboxRecord, group_id: bytes, epoch: int, upload: UploadRecord | None) -> Outgoing:
    """The stanza of a Commit or a creation; what must be uploaded before, if that has not been done.

    :param epoch: the one that the Commit ends
    :raises StanzaTooLarge: a message of it is longer than an element may be
    """
    origin_id = record.origin_id.decode()
    if upload is not None and not upload.location:
        placement = Placement.ALL_ELSEWHERE if upload.welcome else Placement.COMMIT_ELSEWHERE
        return Outgoing(origin_id, record.kind, (), to_upload(record, placement))
    found: list[RoomElement] = []
    if upload is None:
        check_lengths(record.message)
        found.append(elements.Commit(group_id, epoch, record.message))
    else:
        found.append(elements.CommitLocation(group_id, epoch, upload.location))
    if upload is not None and upload.welcome:
        found.append(elements.WelcomeLocation(group_id, epoch + 1, upload.welcome_location))
    elif record.welcome:
        check_lengths(record.welcome)
        found.append(elements.Welcome(group_id, epoch + 1, record.welcome))
    if record.group_info:
        check_lengths(record.group_info)
        found.append(as_element(group_id, epoch + 1, record.group_info))
    return Outgoing(origin_id, record.kind, tuple(found))


def located(
    record: OutboxRecord, upload: UploadRecord, commit: CommitPlace, places: Sequence[BlobReference]
) -> UploadRecord:
    """The record of what has been uploaded.

    :param places: of :func:`to_upload`
    """
    welcome = WelcomePlace(_new_members(record.welcome), places[1]).encode() if upload.welcome else b""
    return UploadRecord(upload.welcome, commit.encode(), welcome)
