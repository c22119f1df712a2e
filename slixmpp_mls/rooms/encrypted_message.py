"""A decrypted message, as the application gets it: its content, its sender, and the answers to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from itertools import count
from xml.etree import ElementTree as ET

from slixmpp.stanza import Message

from ..client import Doubt, Member
from ..errors import UsageError
from ..stanza.rich import Kind
from .encrypted_room import EncryptedRoom
from .engine.sender import SentMessage
from .files import File
from .rich import Reference, Rich, correction, reactions, reply, retraction

__all__ = ["EncryptedMessage"]


@dataclass(frozen=True, slots=True)
class EncryptedMessage:
    """The data of the event ``mls_message``.

    :ivar room: the room in which it was sent
    :ivar message: the decrypted content as a slixmpp Message: ``message["body"]``, and the elements that registered
        plugins read (corrections, reactions, replies ...).  It cannot be sent: ``send()`` of it, of its copies and of
        ``message.reply(...)`` raises :class:`~slixmpp_mls.errors.SentInClear`
    :ivar sender: the member that signed it
    :ivar epoch: the epoch in which it was sent
    :ivar sent: the sender's claimed sending time
    :ivar archive_id: its id in the room's archive
    :ivar delayed: whether it comes from the archive
    :ivar again: whether it was read before a restart, and perhaps handed out; the same `archive_id` identifies it.
        (After a power cut the messages of the last seconds come once more without this flag: reading does not wait for
        the disk.)
    :ivar warnings: contradictions that do not make it false: ``time`` (its time is later than the room's),
        ``claimed-sender`` (the room names another account as the sender), ``removed`` (its sender had been removed when
        the room received it: a message in transit, or one whose keys were kept by somebody that should not have them),
        ``clear`` (the stanza had content in clear beside the ciphertext, a body perhaps; it is not in `message`),
        ``file`` (it names files in a way that breaks the rules; these are not in `files`), ``split`` (its sender states
        that it has been in another epoch of the same number than we: a server has shown us different rooms, at least
        for a while; see :meth:`EncryptedRoom.compare`)
    :ivar missing: how many messages of this sender should have come just before this one and have not: a server has
        lost them or withholds them, or the sender could not send them, or they will still arrive
    :ivar doubt: why the Authentication Service does not vouch for the sender at the time of reading; None if it does
    :ivar rich: its relation to other messages, see :mod:`.rich`
    """

    room: EncryptedRoom = field(repr=False)
    message: Message = field(repr=False)
    sender: Member
    epoch: int
    sent: datetime | None
    archive_id: str
    delayed: bool
    again: bool = False
    warnings: tuple[str, ...] = ()
    missing: int = 0
    doubt: Doubt | None = None
    rich: Rich = field(default_factory=Rich, repr=False)

    _answers: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    async def reply(self, text: str) -> SentMessage:
        """Answer in the room of this message (XEP-0461).

        If a crash makes the message arrive again (`again`), the answers to it, in the same order, have the same ids,
        and every member sees them once.  The same is true of the other answers: :meth:`react`, :meth:`correct`,
        :meth:`retract`.

        Messages from other devices of our own account are not answered: a bot that runs twice would answer itself
        without end.  :meth:`EncryptedRoom.send` sends in this case, too.

        :raises UsageError: the sender is of our own account
        :raises: as :meth:`EncryptedRoom.send`
        """
        if self.own:
            raise UsageError("reply() does not answer messages of our own account: see EncryptedMessage.own")
        return await self._answer(text, reply(self.reference))

    async def react(self, *emojis: str) -> SentMessage:
        """Show reactions to it (XEP-0444): these replace our earlier ones; an empty set removes them.

        :raises UsageError: too many, or not short texts; or as :meth:`EncryptedRoom.send`
        """
        return await self._answer(None, reactions(self.reference, emojis))

    async def correct(self, text: str) -> SentMessage:
        """Replace its text (XEP-0308), if it is our account's; see also :meth:`EncryptedRoom.correct`.

        :raises UsageError: it is another account's; or as :meth:`EncryptedRoom.send`
        """
        if self.sender.account != self.room.own_account:
            raise UsageError("only messages of our own account can be corrected")
        return await self._answer(text, correction(self.reference))

    async def retract(self) -> SentMessage:
        """Ask all members to forget it (XEP-0424), if our account sent it or is an administrator.

        :raises UsageError: we may not retract it; or as :meth:`EncryptedRoom.send`
        """
        if self.sender.account != self.room.own_account and not self.room.is_administrator:
            raise UsageError("other accounts' messages are retracted by administrators only")
        return await self._answer(None, retraction(self.reference))

    async def displayed(self) -> bool:
        """Show the members that we have read this message and all before it (XEP-0333); they get ``mls_marker``.

        It is encrypted, not stored anywhere, and lost if it is lost.  Nothing is sent by itself: people may not want
        others to know what they have read.

        :returns: as of :meth:`EncryptedRoom.typing`
        """
        return await self.room.displayed(self.reference)

    async def _answer(self, text: str | None, element: ET.Element) -> SentMessage:
        message = self.room.message_with(element, text)
        asked = sha256(self.archive_id.encode()).hexdigest()[:32]
        message["id"] = f"re-{asked}-{next(self._answers)}"
        return await self.room.send(message)

    @property
    def own(self) -> bool:
        """Whether another device of our own account has sent it; bots ignore these."""
        return self.sender.account == self.room.own_account

    @property
    def reference(self) -> Reference:
        """The message that answers refer to: this one, or the one that it corrects."""
        if self.replaces is not None:
            return self.replaces
        return Reference(self.origin_id, self.sender.account, self.archive_id, known=True)

    @property
    def reply_to(self) -> Reference | None:
        """The message that it answers."""
        return self.rich.reply_to

    @property
    def reacts_to(self) -> Reference | None:
        """The message that its :attr:`reactions` refer to."""
        return self.rich.about if self.rich.content.kind is Kind.REACTION else None

    @property
    def reactions(self) -> tuple[str, ...]:
        """All reactions of the sender to :attr:`reacts_to` from now on."""
        return self.rich.content.reactions

    @property
    def replaces(self) -> Reference | None:
        """The message that it corrects; always the sender account's own."""
        return self.rich.about if self.rich.content.kind is Kind.CORRECTION else None

    @property
    def retracts(self) -> Reference | None:
        """The message to forget, at the request of its sender or of an administrator."""
        return self.rich.about if self.rich.content.kind is Kind.RETRACTION else None

    @property
    def mentions(self) -> tuple[str, ...]:
        """The accounts (bare JIDs) that it mentions (XEP-0513, XEP-0372)."""
        return self.rich.content.mentions

    @property
    def body(self) -> str:
        """The text, empty if there is none."""
        return str(self.message["body"])

    @property
    def files(self) -> tuple[File, ...]:
        """Its files; none of them is fetched automatically.  Their caption is the :attr:`body`, too."""
        return self.room.files.of(self.message)

    @property
    def subject(self) -> str | None:
        """The room's new subject, if this message sets it (XEP-0045 8.1)."""
        if self.message.xml.find("{jabber:client}subject") is None or self.body:
            return None
        return str(self.message["subject"])

    @property
    def origin_id(self) -> str:
        """The sender's id for it, empty if there is none: the same for every member, and in every repetition."""
        return str(self.message["id"])
