"""The plugin ``mls`` for poezio, the terminal client that is made with slixmpp too.

``pip install 'slixmpp-mls[poezio]'``, then ``/load mls`` in poezio, or ``plugins_autoload = mls`` in its configuration.
``/mls`` turns encryption on: in a room tab it adopts the room, makes its group or waits to be let in; in a
conversation, it opens the conversation of two (:mod:`slixmpp_mls.rooms.conversations`).  ``/mls help`` lists the rest.

What is poezio's, and what is ours:

- *Sending.*  poezio asks its plugins before it sends a message (``muc_say_after``, ``conversation_say_after``).  This
  plugin takes the text, empties the message, which makes poezio drop it, and gives the text to
  :meth:`.EncryptedRoom.send`: our outbox keeps it over a crash, and sends it once.  Everything else that any part of
  poezio sends to an encrypted tab meets the filter of the base class: content goes the same way, "is typing" is shown
  encrypted (:meth:`.EncryptedRoom.typing`), and the rest (receipts, markup) is dropped.  The stanza that came in is
  never let out.
- *Reading.*  Our own events bring the messages, those of the archive too, each once; poezio's reading of archives finds
  no text in our stanzas.  Whatever poezio logs, it logs by its own settings (``use_log``).
- *The base class* has the encryption state of tabs, its configuration and the mark in the information bar.  Its
  ``replace_body_with_eme`` is off, and its filter is replaced: it would drop the stanzas that our engine sends to rooms
  without a tab.
- *Invitations* of people in the roster are followed; others are shown, and ``/mls`` in the room's tab accepts one.
  ``accept = all`` in ``plugins/mls.cfg`` follows all.

=============  ====================================================================================================
``store``      the file of keys and groups; ``mls/ACCOUNT.db`` in poezio's data folder
``key_file``   the key file of that store, if it is encrypted
``accept``     ``contacts`` (the default) or ``all``
``downloads``  folder for fetched files; the home folder
=============  ====================================================================================================

The module is longer than others: poezio wants one class for each plugin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from poezio import xdg
from poezio.plugin_e2ee import E2EEPlugin, NothingToEncrypt
from poezio.roster import roster
from poezio.tabs import ChatTab, ConversationTab, DynamicConversationTab, MucTab, PrivateTab, StaticConversationTab
from poezio.text_buffer import CorrectionError
from poezio.theming import dump_tuple, get_theme
from poezio.ui.types import InfoMessage
from poezio.ui.types import Message as Line
from slixmpp import JID
from slixmpp.stanza import Message

from ..delivery import Invitation, Stream
from ..delivery.muc_config import configure
from ..errors import GroupExists, MLSError, RoomUnsuitable, UsageError
from ..identity import TrustLevel
from ..plugin import MLS
from ..rooms.encrypted_message import EncryptedMessage
from ..rooms.encrypted_room import EncryptedRoom, SentMessage
from ..rooms.rich import Typing
from ..stanza import NS
from ..stanza.display import displayable, local_time
from .commands import HELP, RoomCommands, quoted
from .notices import EVENTS, notice

__all__ = ["Plugin"]

_CONTENT = frozenset({
    "{jabber:client}body",
    "{urn:xmpp:message-correct:0}replace",
    "{urn:xmpp:reply:0}reply",
    "{urn:xmpp:fallback:0}fallback",
    "{urn:xmpp:reactions:0}reactions",
    "{urn:xmpp:message-retract:1}retract",
})  # fmt: skip
"""Elements of poezio's that are sent as content; receipts and markup are not sent at all."""
_CHAT_STATES = "http://jabber.org/protocol/chatstates"
_STATES = frozenset(f"{{{_CHAT_STATES}}}{state}" for state in ("active", "composing", "paused", "inactive", "gone"))
_INVITATIONS = frozenset({"{http://jabber.org/protocol/muc#user}x", "{jabber:x:conference}x"})
_LAST = 100  # the place of our handlers: other plugins may change a text before it is encrypted
_OFF = "off"


class Plugin(E2EEPlugin):
    """See the module."""

    encryption_name = "MLS"
    encryption_short_name = "mls"
    eme_ns = NS
    encrypted_tags = [(NS, "application")]
    stanza_encryption = True
    replace_body_with_eme = False
    supported_tab_types = (DynamicConversationTab, StaticConversationTab, PrivateTab, MucTab)

    # --- life ------------------------------------------------------------------------------------

    def init(self) -> None:
        """Load: open the store, and begin to read its rooms."""
        xmpp = self.core.xmpp
        self._told: set[tuple[str, str]] = set()  # rooms and inviters of invitations that have been shown
        xmpp.register_plugin("mls", self._settings())
        self._mls = MLS.of(xmpp)
        self._loaded = True
        self._commands = RoomCommands(
            self._mls, Path(self.config.get("downloads") or Path.home()).expanduser(), "/mls "
        )
        self._sending: dict[str, asyncio.Lock] = {}
        self._typing: set[str] = set()  # the tabs whose others believe that we are typing
        super().init()
        self._handlers: dict[str, Callable[[Any], None]] = {
            "mls_ready": self._ready,
            "mls_message": self._show,
            "mls_doubted_message": self._show,
            "mls_correction": self._show_correction,
            "mls_reaction": self._show_reaction,
            "mls_retraction": self._show_retraction,
            "mls_typing": self._show_typing,
            **{name: partial(self._tell, name) for name in EVENTS},
        }
        for name, handler in self._handlers.items():
            xmpp.add_event_handler(name, handler)
        self.api.add_event_handler("muc_say_after", self._say, _LAST)
        self.api.add_event_handler("conversation_say_after", self._say, _LAST)

    def _settings(self) -> dict[str, Any]:
        account = self.core.xmpp.boundjid.bare
        given = self.config.get("store")
        store = Path(given).expanduser() if given else Path(xdg.DATA_HOME) / "mls" / f"{account}.db"
        store.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        key_file = self.config.get("key_file")
        return {
            "store": store,
            "key_file": Path(key_file).expanduser() if key_file else None,
            "label": "poezio",
            "nick": self.core.own_nick or None,
            "accept_invitation": self._accepts,
        }

    def cleanup(self) -> None:
        """Unload: no tab stays that would send in clear what its user believes to be encrypted."""
        super().cleanup()
        self._loaded = False
        xmpp = self.core.xmpp
        for name, handler in self._handlers.items():
            xmpp.del_event_handler(name, handler)
        xmpp.remove_handler("EncryptedTag0")
        xmpp.plugin.disable("mls")  # type: ignore[attr-defined]
        self._information("Encrypted tabs send nothing until the plugin is loaded again.", "Warning")

    def _accepts(self, invitation: Invitation) -> bool:
        inviter = invitation.inviter.bare
        contact = roster[inviter] if inviter in roster else None  # noqa: SIM401  # it has no get()
        if self.config.get("accept") == "all" or (contact is not None and contact.subscription != "none"):
            return True
        self._invited(str(invitation.room), str(inviter))
        return False

    def _invited(self, room: str, inviter: str) -> None:
        if (room, inviter) not in self._told:
            self._told.add((room, inviter))
            self._information(
                f"{inviter} invites you to the encrypted room {room}: /join {room}, then /mls accepts."
                f" If it is a conversation of two: /message {inviter}, then /mls."
            )

    # --- which tabs are encrypted ----------------------------------------------------------------

    def _encryption_enabled(self, jid: JID) -> bool:
        """Rooms and people, by bare address; a private message through a room is of neither kind."""
        bare = JID(JID(jid).bare)
        if JID(jid).resource and self._room_tab(bare.full) is not None:
            return False
        return bool(super()._encryption_enabled(bare))

    def _display_encryption_status(self, jid_s: str) -> str:
        jid = JID(jid_s)
        if not self._encryption_enabled(jid):
            return ""
        return " mls" if self._room_for(jid.bare) is not None else " mls (not in the group yet)"

    def _room_for(self, address: str) -> EncryptedRoom | None:
        """The room of a tab, if we are in its group."""
        room = self._mls.rooms.get(address) or self._mls.conversations.get(address)
        return room if room is not None and room.is_member else None

    def _enable(self, address: str) -> None:
        if self._configured(address) != _OFF:
            self._enabled_tabs[JID(address)] = self.encrypt

    def _configured(self, address: str) -> str:
        from poezio.config import config  # poezio makes it after the import of its modules

        return str(config.getstr("encryption", section=address))

    def _configure(self, address: str, value: str) -> None:
        from poezio.config import config

        config.set_and_save("encryption", value, section=address)

    def _ready(self, _: object) -> None:
        for room in self._mls.rooms.values():
            if room.group.is_member:  # also if the room is lost: its server could otherwise have us speak in clear
                self._enable(room.partner or room.jid)
        for invitation in self._mls.invitations:  # of earlier sessions
            self._invited(invitation.room, invitation.inviter)
        self.core.refresh_window()

    # --- the command -----------------------------------------------------------------------------

    def _toggle_tab(self, line: str) -> None:
        """``/mls``: with nothing behind it, turn encryption on."""
        tab = self.api.current_tab()
        if not isinstance(tab, ChatTab):
            return
        name, _, rest = line.strip().partition(" ")
        match name:
            case "" | "on":
                self._run(tab, self._turn_on(tab))
            case "off":
                self._turn_off(tab)
            case "help":
                lines = ("/mls               encrypt this tab", "/mls off           send in clear from now on")
                self._information("\n".join((*lines, HELP.replace("/", "/mls "))))
            case "configure":
                self._run(tab, self._configure_room(tab))
            case _:
                self._run(tab, self._command(tab, name, rest))

    def _run(self, tab: ChatTab, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except (MLSError, OSError) as error:
                self._warn(tab, str(error))

        self.core.register_task(guarded())

    async def _command(self, tab: ChatTab, name: str, rest: str) -> None:
        room = await self._of_tab(tab)
        result = await self._commands.run(room, name, rest)
        if result.shown and result.sent is not None:
            self._show_own(tab, result.sent, result.shown)
        if result.left:
            self._enabled_tabs.pop(JID(self._address(tab)), None)
        if result.text:
            (self._warn if result.warning else self._note)(tab, result.text)

    async def _turn_on(self, tab: ChatTab) -> None:
        address = self._address(tab)
        if isinstance(tab, PrivateTab):
            tab = self._conversation_tab(address)
            self.core.tabs.set_current_tab(tab)
        self._configure(address, self.encryption_short_name)
        self._enable(address)  # nothing leaves in clear from here on
        tab.e2e_encryption = self.encryption_name
        self.core.refresh_window()
        try:
            await self._mls.ready()
            if isinstance(tab, MucTab):
                room = self._room_for(address) or await self._group_in(tab)
            else:
                room = await self._mls.conversation(address)
        except RoomUnsuitable as error:
            self._disable(tab, address)
            raise UsageError(
                f"This room is not encrypted: it is {', '.join(error.reasons)}."
                " /mls configure makes it fit, if you are its owner."
            ) from None
        except MLSError as error:
            self._disable(tab, address)
            raise UsageError(f"This tab is not encrypted: {error}") from None
        self._note(tab, f"Encrypted from now on, with {', '.join(room.accounts)}. /mls members shows their keys.")
        self.core.refresh_window()

    async def _group_in(self, tab: MucTab) -> EncryptedRoom:
        """A group in the room of a tab: adopted, or created with the room, or joined."""
        address = self._address(tab)
        try:
            return await self._mls.adopt(address)
        except RoomUnsuitable as error:
            if "not-found" in error.reasons:
                return await self._mls.create(address)
            if not self._is_alone_and_owner(tab):
                raise
        except GroupExists:
            self._note(tab, "This room is encrypted already. Waiting for a member to let this device in ...")
            return await self._mls.join(address)
        await configure(Stream.of(self.core.xmpp), address)
        return await self._mls.adopt(address)

    @staticmethod
    def _is_alone_and_owner(tab: MucTab) -> bool:
        """Whether the room is new: it has nobody else whose expectations its configuration could break."""
        return len(tab.users) <= 1 and tab.own_user is not None and tab.own_user.affiliation == "owner"

    async def _configure_room(self, tab: ChatTab) -> None:
        if not isinstance(tab, MucTab):
            raise UsageError("this is not the tab of a room")
        await configure(Stream.of(self.core.xmpp), self._address(tab))
        await self._turn_on(tab)

    def _turn_off(self, tab: ChatTab) -> None:
        address = self._address(tab)
        self._disable(tab, address)
        self._configure(address, _OFF)
        self._warn(tab, "What you type here is sent in clear from now on.")

    def _disable(self, tab: ChatTab, address: str) -> None:
        from poezio.config import config

        self._enabled_tabs.pop(JID(address), None)
        config.remove_and_save("encryption", section=address)
        tab.e2e_encryption = None
        self.core.refresh_window()

    def _address(self, tab: ChatTab) -> str:
        """The address of a room or a person; for a private tab of a room, the person's.

        :raises UsageError: the room does not say who that is
        """
        if not isinstance(tab, PrivateTab):
            return str(tab.jid.bare)
        for user in tab.parent_muc.users if tab.parent_muc is not None else ():
            if user.nick == tab.jid.resource and user.jid:
                return str(JID(user.jid).bare)
        raise UsageError("the room does not say who that is: open a conversation with their address (/message)")

    # --- sending ---------------------------------------------------------------------------------

    def _say(self, message: Message, tab: ChatTab) -> None:
        """Somebody has typed a text: poezio drops a message without a body."""
        if not self._encryption_enabled(tab.jid):
            return
        content = self._content(message)
        correct = bool(message["replace"]["id"])
        del message["body"]
        tab.cancel_paused_delay()
        self._run(tab, self._send(tab, content, correct))

    async def _encrypt(self, stanza: Any, passthrough: bool = True) -> Any:
        """The base class's filter for all that poezio sends; its metaclass takes `passthrough`."""
        if not isinstance(stanza, Message) or stanza["type"] not in ("normal", "chat", "groupchat"):
            raise NothingToEncrypt
        if any(child.tag.startswith(f"{{{NS}}}") for child in stanza.xml):
            raise NothingToEncrypt  # our engine's
        to = JID(stanza["to"])
        if to.resource and self._room_tab(to.bare) is not None and self._encryption_enabled(JID(to.bare)):
            if stanza["body"]:
                self._information("Private messages through an encrypted room are not encrypted: /mls opens a"
                                  " conversation of two.", "Error")  # fmt: skip
            return None
        if not self._encryption_enabled(to) or any(child.tag in _INVITATIONS for child in stanza.xml):
            raise NothingToEncrypt
        tab = self._room_tab(to.bare) or self._conversation_tab(to.bare)
        await self.encrypt(stanza, None, tab)
        return None

    async def encrypt(self, message: Message, jids: list[JID] | None, tab: ChatTab | None) -> None:
        """Send a stanza's content through our outbox.  It must not wait: the filter holds up all that is sent."""
        if tab is None:
            return
        tags = {child.tag for child in message.xml}
        if tags & _CONTENT:
            self._run(tab, self._send(tab, self._content(message), correct=False))
        elif tags & _STATES:
            self._run(tab, self._signal(tab, f"{{{_CHAT_STATES}}}composing" in tags))

    async def decrypt(self, message: Message, jid: JID | None, tab: ChatTab | None) -> None:
        """Nothing to do: the plugin reads the stanzas of rooms by itself, in their order."""

    def _content(self, message: Message) -> Message:
        content: Message = self.core.xmpp.make_message(mto=message["to"], mtype="groupchat")
        content["id"] = message["id"]
        for child in message.xml:
            if child.tag in _CONTENT:
                content.xml.append(child)
        return content

    async def _of_tab(self, tab: ChatTab) -> EncryptedRoom:
        """
        :raises UsageError: we are not in a group there
        """
        if not self._loaded:  # the filter outlives the plugin, which is as well
            raise UsageError("nothing was sent: the plugin mls is not loaded any more")
        await self._mls.ready()
        address = self._address(tab)
        room = self._room_for(address)
        if room is None and not self._encryption_enabled(tab.jid):
            raise UsageError("this tab is not encrypted: /mls encrypts it. Nothing was sent")
        known = self._mls.rooms.get(address)
        if room is None and known is not None and known.lost is not None:
            raise known.lost
        if room is None:
            raise UsageError("this device is not in the group yet; nothing was sent. /mls asks again")
        return room

    async def _send(self, tab: ChatTab, content: Message, correct: bool) -> None:
        async with self._sending.setdefault(self._address(tab), asyncio.Lock()):
            room = await self._of_tab(tab)
            content["to"] = JID(room.jid)
            sent = await room.send(content)
        text = str(content["body"])
        if not text:
            return
        self._typing.discard(self._address(tab))  # a message ends it
        self._commands.session(room.jid).sent_one(sent, text)
        if correct:
            self._replace(tab, content["replace"]["id"], sent.origin_id, text, room.own_account)
        else:
            self._show_own(tab, sent, text)

    async def _signal(self, tab: ChatTab, typing: bool) -> None:
        """A chat state of poezio's (its `send_chat_states`), encrypted; one that is no news is not sent."""
        address = self._address(tab)
        room = self._room_for(address)
        if room is not None and typing != (address in self._typing):
            (self._typing.add if typing else self._typing.discard)(address)
            await room.typing(typing)

    def _show_own(self, tab: ChatTab, sent: SentMessage, text: str) -> None:
        own = self.core.xmpp.boundjid
        last = self.core.xmpp.make_message(mto=tab.jid, mbody=text)
        last["id"] = sent.origin_id
        tab.set_last_sent_message(last)  # for /correct
        nick = tab.own_nick if isinstance(tab, MucTab) else self.core.own_nick
        self._add(tab, Line(displayable(text), nick, nick_color=get_theme().COLOR_OWN_NICK,
                            identifier=sent.origin_id, jid=JID(own.bare)))  # fmt: skip

        async def confirmed() -> None:
            try:
                await sent.confirmed
            except MLSError as error:
                tab._text_buffer.nack_message(f"\n{error}", sent.origin_id, own)
            else:
                tab._text_buffer.ack_message(sent.origin_id, own)
            self.core.refresh_window()

        self.core.register_task(confirmed())

    # --- showing ---------------------------------------------------------------------------------

    def _room_tab(self, room: str) -> MucTab | None:
        return self.core.tabs.by_name_and_class(room, MucTab)

    def _conversation_tab(self, account: str) -> ConversationTab:
        tab = self.core.get_conversation_by_jid(JID(account), create=True)
        assert tab is not None  # since it was to be created
        return tab

    def _tab_of(self, room: EncryptedRoom) -> ChatTab:
        """The tab of a room or conversation, opened behind the others if there is none."""
        self._enable(room.partner or room.jid)
        if room.partner is not None:
            return self._conversation_tab(room.partner)
        tab = self._room_tab(room.jid)
        if tab is None:
            tab = self.core.open_new_room(JID(room.jid), self.core.own_nick, focus=False)
            tab.join()
        return tab

    def _show(self, message: EncryptedMessage) -> None:
        tab = self._tab_of(message.room)
        if message.again and tab._text_buffer._find_message(message.origin_id)[1] >= 0:
            return
        text = self._commands.text_of(message)
        if not text:
            return
        self._add(tab, self._line(tab, message, text))
        for warning in message.warnings:
            self._warn(tab, f"about this message: {warning}")
        if message.doubt is not None and message.doubt.denied:
            self._warn(tab, f"about this message: {message.doubt.text}")

    def _line(self, tab: ChatTab, message: EncryptedMessage, text: str) -> Line:
        account = message.sender.account
        sent = local_time(message.sent)
        theme = get_theme()
        nick, colour = account, theme.COLOR_OWN_NICK if message.own else theme.COLOR_REMOTE_USER
        if isinstance(tab, MucTab):
            for user in tab.users:
                if user.jid and JID(user.jid).bare == account:
                    nick, colour = user.nick, user.color
                    break
        elif not message.own:
            nick = tab.get_nick()
        return Line(
            text,
            f"{nick}{self._mark(message)}",
            time=sent.replace(tzinfo=None),
            nick_color=colour,
            history=sent.date() != datetime.now().astimezone().date(),
            identifier=message.origin_id,
            jid=JID(account),
        )

    def _mark(self, message: EncryptedMessage) -> str:
        """How far we believe that the key is the account's: every message shown by this plugin is encrypted."""
        level = self._mls.trust.level(message.sender.account, message.sender.signature_key)
        return {TrustLevel.VERIFIED: " \u2713", TrustLevel.UNDECIDED: " ?", TrustLevel.DISTRUSTED: " !"}.get(level, "")

    def _show_correction(self, message: EncryptedMessage) -> None:
        if message.replaces is None:
            return
        tab = self._tab_of(message.room)
        self._commands.session(message.room.jid).said(message.replaces.id, message.body)
        self._replace(tab, message.replaces.id, message.origin_id, message.body, message.sender.account)

    def _replace(self, tab: ChatTab, old: str, new: str, text: str, account: str) -> None:
        text = displayable(text)
        try:
            tab._text_buffer.modify_message(text, old, new, jid=JID(account))
        except CorrectionError:
            self._note(tab, f"{account} corrects an earlier message: {text}")
        self.core.refresh_window()

    def _show_reaction(self, message: EncryptedMessage) -> None:
        about = message.reacts_to
        if about is None:
            return
        tab = self._tab_of(message.room)
        emojis = {displayable(each) for each in message.reactions}
        if not tab._text_buffer.react(to=about.id, by=message.sender.account, reactions=emojis):
            text = self._commands.session(message.room.jid).texts.get(about.id, "")
            what = f"\u201c{quoted(text, 30)}\u201d" if text else "an earlier message"
            self._note(tab, f"{message.sender.account}: {' '.join(sorted(emojis)) or 'no reaction'} to {what}")
        self.core.refresh_window()

    def _show_retraction(self, message: EncryptedMessage) -> None:
        if message.retracts is None:
            return
        tab = self._tab_of(message.room)
        # The engine has checked that the sender may do that.
        found = tab._text_buffer.delete_message(
            message.retracts.id, moderation=True, tombstone=f"{message.sender.account} has taken this message back."
        )
        if not found:
            self._note(tab, f"{message.sender.account} takes an earlier message back.")
        self.core.refresh_window()

    def _show_typing(self, event: Typing) -> None:
        room = self._mls.rooms.get(event.room)
        if room is None or event.sender.account == room.own_account:
            return
        if room.partner is not None:
            tab = self.core.get_conversation_by_jid(JID(room.partner), create=False)
            if tab is not None:
                tab.chatstate = event.state
                tab.refresh_info_header()
                self.core.doupdate()
            return
        muc = self._room_tab(room.jid)
        for user in muc.users if muc is not None else ():
            if user.jid and JID(user.jid).bare == event.sender.account:
                user.chatstate = event.state
        self.core.refresh_window()

    # --- telling ---------------------------------------------------------------------------------

    def _tell(self, name: str, event: Any) -> None:
        said = notice(name, event)
        if said is None:
            return
        room = None if said.room is None else self._mls.rooms.get(said.room)
        if room is None or not room.group.is_member:
            self._information(said.text, "Warning" if said.warning else "Info")
            return
        if name == "mls_joined":
            self.core.pending_invites.pop(room.jid, None)
        (self._warn if said.warning else self._note)(self._tab_of(room), said.text)

    def _information(self, text: str, kind: str = "Info") -> None:
        self.api.information(displayable(text), kind)

    def _note(self, tab: ChatTab, text: str) -> None:
        self._add(tab, InfoMessage(displayable(text)))

    def _warn(self, tab: ChatTab, text: str) -> None:
        colour = dump_tuple(get_theme().COLOR_WARNING_TEXT)
        self._add(tab, InfoMessage(f"\x19{colour}}}{displayable(text)}\x19o"))

    def _add(self, tab: ChatTab, line: Any) -> None:
        tab.add_message(line)
        if self.core.tabs.current_tab is not tab and isinstance(line, Line) and isinstance(tab, ConversationTab):
            tab.state = "private"
        self.core.refresh_tab_win()
        self.core.refresh_window()
