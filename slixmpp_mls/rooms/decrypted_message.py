"""The Message that is handed out for decrypted content, which cannot be sent in clear.

slixmpp's usual idiom is ``message.reply("...").send()``.  For a message of an encrypted room this would put the answer,
and with ``clear=False`` what was decrypted, before the room's server.  So the Message that an
:class:`~.encrypted_room.EncryptedMessage` holds is of a class of its own: what slixmpp derives from it (``reply``,
copies) is of the same class, and none of them goes onto a stream.  ``send`` raises; what is given to
``XMLStream.send`` past it is stopped by a filter (:func:`keep_in`), because an exception there would end the stream's
sending.
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
            " encrypted with `await encrypted_message.group.send(message)`"
        )


def keep_in(stanza: Any) -> Any:
    """A filter for what goes out: everything but decrypted content."""
    if isinstance(stanza, DecryptedMessage):
        log.error("the decrypted content of a message was to be sent in clear, which was stopped")
        return None
    return stanza
