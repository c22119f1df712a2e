"""A chat that fills the terminal: several rooms and conversations, made with Textual.

On the left the talks, with a number where there is something unread; in the middle what was said, and a line to type;
on the right who is there, with the level of trust in each key.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from rich.text import Text
from textual import events, on
from textual.app import App, ComposeResult, ScreenStackError
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.css.query import NoMatches
from textual.message import Message as TextualMessage
from textual.widgets import Input, OptionList, RichLog, Static
from textual.widgets.option_list import Option

from ...errors import MLSError
from ...integrations.notices import outage_in_words
from ...stanza.display import displayable
from ..terminal import colour_of
from ..trust import STYLES
from .model import Chat, Line, Talk

__all__ = ["Window"]

_TICK = 1.0  # seconds after which what depends on the time is drawn again


_NEW_LINE = "\u23ce"  # stands in the entry, which has one line, for the end of a line


class Entry(Input):
    """The line to type, with the history of the talk.

    Several lines that are pasted, or typed with Ctrl-J between them, are one message.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "earlier", show=False),
        Binding("down", "later", show=False),
    ]

    class Typed(TextualMessage):
        """Somebody has pressed Enter."""

        def __init__(self, line: str) -> None:
            super().__init__()
            self.line = line

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.history: list[str] = []
        self._place = 0
        self._draft = ""

    async def _on_key(self, event: events.Key) -> None:
        # Not by a binding: keys that follow quickly would come before it, and into the same line.
        if event.key not in ("enter", "ctrl+j"):
            return  # Textual calls the base class as well
        event.stop()
        event.prevent_default()
        if event.key == "ctrl+j":
            self.insert_text_at_cursor(_NEW_LINE)
        else:
            self.post_message(self.Typed(self.value.replace(_NEW_LINE, "\n")))
            self.value = ""

    def _on_paste(self, event: events.Paste) -> None:
        event.stop()
        event.prevent_default()  # Textual's takes the first line only
        self.replace(_NEW_LINE.join(event.text.strip("\r\n").splitlines()), *self.selection)

    def use(self, history: list[str]) -> None:
        """Take up the history of another talk."""
        self.history, self._place, self._draft = history, len(history), ""

    def action_earlier(self) -> None:
        """The line before."""
        self._place = min(self._place, len(self.history))
        if self._place == len(self.history):
            self._draft = self.value
        if self._place:
            self._show(self._place - 1)

    def action_later(self) -> None:
        """The next line, and at last what was being typed."""
        if self._place < len(self.history):
            self._show(self._place + 1)

    def _show(self, place: int) -> None:
        self._place = place
        earlier = self.history[place].replace("\n", _NEW_LINE) if place < len(self.history) else self._draft
        self.value = earlier
        self.cursor_position = len(self.value)


class Window(App[None]):
    """The window of a chat.

    :param address: the talk to open first; None: the first one of the store
    :param create: whether it is a room to be made
    :param people: who is to be added to it
    """

    TITLE = "slixmpp-mls"
    CSS = """
    #talks { width: 26; border: none; border-right: solid $primary; }
    #people { width: 30; border-left: solid $primary; padding: 0 1; overflow-y: auto; }
    #people.hidden { display: none; }
    #middle { width: 1fr; }
    RichLog { height: 1fr; padding: 0 1; scrollbar-size-vertical: 1; }
    #status { height: auto; max-height: 5; padding: 0 1; background: $boost; color: $text-muted; }
    Entry { border: none; height: 1; padding: 0 1; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "leave", "Quit", priority=True),
        Binding("ctrl+c", "leave", "Quit", priority=True),
        Binding("ctrl+n", "next(1)", "Next talk", priority=True),
        Binding("ctrl+p", "next(-1)", "Talk before", priority=True),
        Binding("f2", "people", "People", priority=True),
        Binding("pageup", "page(-1)", show=False, priority=True),
        Binding("pagedown", "page(1)", show=False, priority=True),
    ]

    def __init__(
        self, chat: Chat, address: str | None = None, *, create: bool = False, people: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self._chat = chat
        self._address = address
        self._create = create
        self._people = people
        self._logs: dict[str, RichLog] = {}
        self._current: Talk | None = None
        self._before: Talk | None = None  # the one that was shown before
        self._focused = True
        self._working: set[asyncio.Task[None]] = set()
        chat.view = self

    # --- layout ----------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield OptionList(id="talks")
            with Vertical(id="middle"):
                yield Vertical(id="logs")
                yield Static(id="status")
                yield Entry(id="entry", placeholder="Type a message, or /help")
            yield Static(id="people", classes="hidden" if self.size.width < 90 else "")

    def on_mount(self) -> None:
        """Show the rooms of the store, and open the talk that was asked for."""
        self.query_one("#talks", OptionList).can_focus = False
        self.query_one(Entry).focus()
        if self._address is None:
            self.told("No rooms yet: /open ADDRESS, /create ROOM, or wait to be invited")
        self._chat.begin()
        if self._current is None and self._chat.talks:
            self.look_at(next(iter(self._chat.talks.values())))
        if self._address is not None:
            self._work(self._open(self._address))
        self._work(self._watch())
        self.set_interval(_TICK, self._tick)

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something while the window goes on."""
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _open(self, address: str) -> None:
        try:
            await self._chat.open(address, create=self._create, people=self._people)
        except MLSError as error:
            self._chat.warn(self._chat.talk(address), str(error))

    async def _watch(self) -> None:
        await self._chat.ended.wait()
        self.exit()

    async def stop(self) -> None:
        """End what the window has begun."""
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)

    # --- what the model tells ----------------------------------------------------------------------

    def shows(self, talk: Talk) -> bool:
        return talk is self._current and self._focused

    def added(self, talk: Talk, line: Line) -> None:
        if talk.address in self._logs:  # else it is among the first lines of the pane
            self._write(self._logs[talk.address], _rendered(line))

    def opened(self, talk: Talk) -> None:
        if self.is_running:
            self.look_at(talk)

    def closed(self, talk: Talk) -> None:
        log = self._logs.pop(talk.address, None)
        if log is not None:
            log.remove()
        if self._current is talk:
            self._current = None
            before = self._before if self._before in self._chat.talks.values() else None
            others = (before, *self._chat.talks.values())
            shown = next((each for each in others if each is not None), None)
            if shown is not None:
                self.look_at(shown)
        self._draw_talks()
        self._draw_people()

    def told(self, text: str) -> None:
        self.query_one("#status", Static).update(Text(text))

    def changed(self, talk: Talk) -> None:
        if not self.is_running or talk.address not in self._chat.talks:
            return
        if self._current is None:
            self.look_at(talk)
        self._draw_talks()
        self._draw_status()
        self._draw_people()

    def own_code(self) -> None:
        if self._current is not None:
            drawing = io.StringIO()
            self._chat.mls.trust.qr().terminal(drawing, compact=True)
            self._write(self._pane(self._current), Text.from_ansi(drawing.getvalue()))

    # --- drawing -------------------------------------------------------------------------------------

    def _pane(self, talk: Talk) -> RichLog:
        log = self._logs.get(talk.address)
        if log is None:
            log = self._logs[talk.address] = RichLog(wrap=True, min_width=20, max_lines=talk.lines.maxlen)
            log.can_focus = False
            log.display = False
            self.query_one("#logs", Vertical).mount(log)
            for line in talk.lines:
                log.write(_rendered(line))
        return log

    def _write(self, log: RichLog, text: Text) -> None:
        """Write into a pane; one that is hidden does not know its width."""
        shown = None if self._current is None else self._logs.get(self._current.address)
        width = 0 if shown is None or log is shown else shown.scrollable_content_region.width
        log.write(text, width=width or None)

    def look_at(self, talk: Talk) -> None:
        """Show a talk."""
        if talk is not self._current:
            self._before, self._current = self._current, talk
        shown = self._pane(talk)
        for log in self._logs.values():
            log.display = log is shown
        entry = self.query_one(Entry)
        entry.use(talk.history)
        self._see()
        self._draw_talks()
        self._draw_status()
        self._draw_people()

    def _see(self) -> None:
        if self._current is not None and self._focused:
            self._chat.seen(self._current)

    def _draw_talks(self) -> None:
        talks = self.query_one("#talks", OptionList)
        talks.clear_options()
        for index, talk in enumerate(self._chat.talks.values()):
            name = Text(displayable(talk.address.partition("@")[0]), overflow="ellipsis", no_wrap=True)
            if talk.unread:
                name = Text.assemble((f"({talk.unread}) ", "bold yellow"), name.markup)
            if talk is self._current:
                name.stylize("bold reverse")
            talks.add_option(Option(name, id=str(index)))

    def _tick(self) -> None:
        """Show what changes with time.  While the window closes its timer goes on, when its parts may be gone."""
        with suppress(NoMatches, ScreenStackError):
            self._draw_status()

    def _draw_status(self) -> None:
        talk = self._current
        if talk is None:
            return
        typing = talk.who_types(asyncio.get_running_loop().time())
        text = talk.waiting
        if not text and typing:
            text = f"{', '.join(typing)} {'is' if len(typing) == 1 else 'are'} typing ..."
        if not text and talk.room is None:
            text = "not in the group"
        if not text and talk.room is not None and talk.room.outage is not None:
            text = outage_in_words(talk.room.outage)
        if not text:
            text = f"{talk.address}  encrypted  epoch {talk.room.epoch if talk.room and talk.room.is_member else '?'}"
        self.query_one("#status", Static).update(Text(displayable(text), no_wrap=True, overflow="ellipsis"))

    def _draw_people(self) -> None:
        talk = self._current
        text = Text()
        if talk is not None and talk.room is not None and talk.room.is_member:
            for member in talk.room.members:
                text.append(f"{member.account}\n", f"bold {colour_of(member.account)}")
                text.append(f" {member.fingerprint[:8]} ", "dim")  # as beside its messages
                if member.fingerprint == self._chat.mls.fingerprint:
                    text.append("this device\n")
                else:
                    text.append(f"{member.level}\n", STYLES.get(member.level, ""))
        self.query_one("#people", Static).update(text)

    # --- keys ------------------------------------------------------------------------------------------

    @on(Entry.Typed)
    def _submitted(self, event: Entry.Typed) -> None:
        line, talk = event.line, self._current
        if talk is not None and line.strip():
            talk.history.append(line)
            self.query_one(Entry).use(talk.history)
        self._work(self._typed(talk, line))

    @on(Input.Changed, "#entry")
    def _being_typed(self, event: Input.Changed) -> None:
        text = event.value
        if self._current is not None and not (text.startswith("/") and not text.startswith("//")):
            self._work(self._chat.typing(self._current, bool(text)))

    async def _typed(self, talk: Talk | None, line: str) -> None:
        if talk is None and not line.startswith("/"):
            self.notify("no room is open: /open ADDRESS or /create ROOM", severity="warning")
            return
        await self._chat.typed(talk, line)

    @on(OptionList.OptionSelected, "#talks")
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.look_at(list(self._chat.talks.values())[int(event.option_id or 0)])

    def action_next(self, step: int) -> None:
        """Show the next talk, or the one before."""
        talks = list(self._chat.talks.values())
        if self._current in talks:
            self.look_at(talks[(talks.index(self._current) + step) % len(talks)])

    def action_people(self) -> None:
        """Show or hide who is there."""
        self.query_one("#people", Static).toggle_class("hidden")

    def action_page(self, step: int) -> None:
        """Scroll back and forth."""
        if self._current is not None:
            log = self._pane(self._current)
            (log.scroll_page_up if step < 0 else log.scroll_page_down)()

    def action_leave(self) -> None:
        """End the chat; the rooms stay in the store."""
        self._chat.ended.set()

    def on_app_focus(self, _: events.AppFocus) -> None:
        """Somebody looks at the window again."""
        self._focused = True
        self._see()

    def on_app_blur(self, _: events.AppBlur) -> None:
        """Nobody looks at it: what comes is unread."""
        self._focused = False


def _rendered(line: Line) -> Text:
    if line.kind in ("message", "own"):
        text = Text.assemble((f"{line.time:%H:%M} ", "dim"), (line.who, f"bold {colour_of(line.who)}"),
                             (f" {line.key} ", "dim"), line.text)  # fmt: skip
        return text
    return Text(line.text, "yellow" if line.kind == "warning" else "dim")
