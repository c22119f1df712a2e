"""Hands a room's messages to the application: from decrypted octets to the event ``mls_message``.

::

    MessageReceived ──► content (envelope) ──► trust messages, taken here
                                         └───► the message that it refers to ──► typing and markers: events
                                                                            └──► EncryptedMessage ──► handlers

Each message stays in the store until its handlers are done (:mod:`.engine.handler_dispatch`).  A message that breaks
the rules of the content is reported as ``mls_rejected``.  One with which our own code fails is done, too
(``mls_failed``): it would end the reading of its room, come back at each start, and keep all other rooms from it.
"""

from __future__ import annotations

import logging
from functools import partial

from ..client import MessageReceived, Rejected
from ..errors import PeerError, StoreError
from ..runtime import Context
from ..stanza.file_sharing import read_files
from ..stanza.rich import Kind
from .content import OpenedContent, open_content
from .decrypted_message import DecryptedMessage
from .encrypted_message import EncryptedMessage
from .encrypted_room import EncryptedRoom
from .engine.handler_dispatch import dispatch
from .rich import Rich, report_presence

__all__ = ["Reception"]

log = logging.getLogger(__name__)

_EVENT_NAMES = {
    Kind.REACTION: "mls_reaction",
    Kind.CORRECTION: "mls_correction",
    Kind.RETRACTION: "mls_retraction",
}


class Reception:
    """Hands over the messages of all rooms."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def receive(self, room: EncryptedRoom, event: MessageReceived) -> None:
        """Hand over a message that has been decrypted.

        :raises StoreError: it was not handed over
        """
        done = partial(room.worker.handled.note, event.number)
        room.noted_epochs()  # while we are in it, whatever comes of the message
        message: EncryptedMessage | None = None
        try:
            opened = self._open(room, event)
            if opened is not None:
                message = self._message(room, event, *opened)
        except PeerError as error:
            self._context.fire("mls_rejected", Rejected(room.jid, error, event.claimed, event.archive_id))
        except StoreError:
            raise
        except Exception as error:
            # Its text may have something of the message in it, so that it is not logged.
            log.error("%s: a message of %s: %s", room.jid, event.sender.identity, type(error).__name__)
            self._context.fire("mls_failed", error)
        if message is None:
            done()
            return
        denied = message.doubt is not None and message.doubt.denied and not room.group.sending.talks_to_anybody
        name = "mls_doubted_message" if denied else _EVENT_NAMES.get(message.rich.content.kind, "mls_message")
        dispatch(room.xmpp, name, message, done)

    def receive_again(self, room: EncryptedRoom) -> None:
        """Hand over messages that were read before a restart and may not have reached the application.

        :raises StoreError: nothing was handed over
        """
        for event in room.group.room_state.not_handed_over():
            self.receive(room, event)

    def _open(self, room: EncryptedRoom, event: MessageReceived) -> tuple[OpenedContent, Rich] | None:
        """The content for the application; None if it was for us.

        :raises PeerError: it breaks the rules
        """
        sender = event.sender
        content = open_content(room.group, event, str(room.xmpp.boundjid), self._context.time())
        said_at = None if content.sent is None else content.sent.timestamp()
        if self._context.trust.take(sender.identity, sender.signature_key, content.xml, said_at):
            return None
        meant = room.references.resolve(content.xml, sender.account)
        return None if report_presence(self._context.fire, room.jid, meant, sender) else (content, meant)

    def _message(
        self, room: EncryptedRoom, event: MessageReceived, content: OpenedContent, meant: Rich
    ) -> EncryptedMessage:
        if event.origin_id is not None:
            room.references.remember(event.origin_id, event.sender.account, event.archive_id)
        warnings = content.warnings
        if room.noted_epochs().contradicted_by(content.affixes) is not None:
            warnings = (*warnings, "split")
        if read_files(content.xml)[1]:
            warnings = (*warnings, "file")
        return EncryptedMessage(
            room=room,
            message=DecryptedMessage(stream=room.xmpp, xml=content.xml),  # type: ignore[no-untyped-call]
            sender=event.sender,
            epoch=event.epoch,
            sent=content.sent,
            archive_id=event.archive_id,
            delayed=event.stamp is not None,
            again=event.again,
            warnings=warnings,
            missing=event.missing,
            doubt=room.group.members.doubt_about(event.sender.identity),
            rich=meant,
        )
