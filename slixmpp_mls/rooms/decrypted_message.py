"""The Message class for decrypted content, which cannot be sent in clear.

slixmpp's usual idiom is ``message.reply("...").send()``.  For a message of an encrypted room this would reveal the
answer, and with ``clear=False`` the decrypted content, to the room's server.  So the Message in an
:class:`~.encrypted_message.EncryptedMessage` has a class of its own.  Objects that slixmpp derives from it (``reply``,
copies) have the same class, and none of them is put onto a stream.  ``send`` raises.  A filter (:func:`keep_in`) stops
stanzas that are given directly to ``XMLStream.send``, because an exception there would end the stream's sending.
"""

from __future__ import annotations

import logging
from typing import Any, NoReturn

from slixmpp.stanza import Message

from ..errors import SentInClear

__all__ = ["DecryptedMessage", "keep_in"]

log = logging.getLogger(__name__)


class DecryptedMessage(Message):
    """The decrypted content of a message; see the module."""

    def send(self) -> NoReturn:
        """
        :raises SentInClear: always
        """
        raise SentInClear(
            "this would be sent in clear: answer with `await encrypted_message.reply(text)`, or send it"
            " encrypted with `await encrypted_message.room.send(message)`"
        )


def keep_in(stanza: Any) -> Any:
    """A filter for outgoing stanzas: passes everything except decrypted content."""
    if isinstance(stanza, DecryptedMessage):
        log.error("the decrypted content of a message was to be sent in clear, which was stopped")
        return None
    return stanza
