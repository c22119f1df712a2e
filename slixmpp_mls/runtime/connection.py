"""The connection of a bot: the causes of failed logins, and reconnection.

slixmpp reports the result of a login attempt in several events.  :class:`LoginWatch` combines them into one
:class:`~slixmpp_mls.errors.LoginFailed`, which says whether the failure may be temporary.

:func:`connected` keeps a connection for the duration of a block of code, :func:`run` for the life of a process.  Both
reconnect when the connection breaks, after growing pauses; slixmpp leaves that to the application.

A connection may also end without a word: a laptop that wakes up, a router that has forgotten it.  The operating system
notices that after a quarter of an hour or more, and only if we send something.  Therefore the server is asked for a
sign of life (XEP-0199 4.2) every two minutes, and the connection is given up if there is none for a minute.
slixmpp's own keepalive (``xep_0199``) would connect again by itself and at once, without our pauses.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import uniform
from typing import Any, Final

from slixmpp import JID, ClientXMPP
from slixmpp.xmlstream.xmlstream import NotConnectedError

from ..delivery import Stream
from ..errors import DeviceRetired, Disconnected, LoginFailed, MLSError, NoAnswer, StoreError, UsageError
from ..stanza.display import displayable

__all__ = ["KeptConnection", "LoginWatch", "abort", "connected", "exit_code", "run"]

log = logging.getLogger(__name__)
_slixmpp_log = logging.getLogger("slixmpp.xmlstream.xmlstream")

_FIRST_PAUSE: Final = 1.0  # seconds
_LONGEST_PAUSE: Final = 60.0
_LOGIN: Final = 60.0  # seconds from the connection to the session; slixmpp waits without end
_LOOK: Final = 1.0  # seconds between two looks at a connection before the session; see `abort`
_PING_INTERVAL: Final = 120.0  # seconds between two signs of life of the server
_PING_PATIENCE: Final = 60.0  # seconds: a server under load is slow
_GOODBYE: Final = 5.0  # seconds to close the stream cleanly
_TURNS: Final = 20
"""Turns of the event loop before the store is closed: handlers that wait for nothing more end, and their messages are
not handed to them again at the next start, when the answer to some is in the store already."""
_TOLD: Final = 1.0  # seconds in which asyncio tells of the end of a connection
_WORDS: Final = 200  # characters of a server's explanation that are repeated
# RFC 6120 4.9.3: stream error conditions that another attempt does not avoid.
_FINAL_CONDITIONS: Final = frozenset({
    "host-gone", "host-unknown", "improper-addressing", "invalid-namespace", "not-authorized", "unsupported-version",
})  # fmt: skip


def abort(xmpp: ClientXMPP) -> None:
    """Close the connection at once; slixmpp's event ``disconnected`` follows, whatever state it is in.

    asyncio tells slixmpp nothing of a connection that is aborted, or reset by the server, in the middle of its TLS
    handshake, so that slixmpp would take itself for connected ever after.
    """
    closed = xmpp.transport
    xmpp.abort()

    def tell(turns: int) -> None:
        """
        :param turns: of the event loop that are left to asyncio, also if it was held up until now
        """
        if closed is None or xmpp.transport is not closed:
            return
        if turns:
            xmpp.loop.call_soon(tell, turns - 1)
        else:
            xmpp.connection_lost(None)

    xmpp.loop.call_later(_TOLD, tell, 5)


class LoginWatch:
    """Detects that a client gets no session, and determines the cause.

    :ivar problem: the cause of the last attempt's failure; None if it succeeded or is still in progress
    :param report: called with each problem
    """

    def __init__(self, xmpp: ClientXMPP, report: Callable[[LoginFailed], object]) -> None:
        self.problem: LoginFailed | None = None
        self._xmpp = xmpp
        self._report = report
        self._in_session = self._had_session = bool(xmpp.session_bind_event.is_set())
        self._reason: object = None
        self._last_words = ""  # the stream error that has ended the session
        self._handlers: dict[str, Callable[[Any], None]] = {
            "connecting": self._begin,
            "connected": self._begin,
            "session_start": self._session,
            "session_resumed": self._session,
            "failed_all_auth": lambda _: self._fail("password", f"it refuses the password{self._last_words}"),
            "no_auth": lambda _: self._fail("refused", "it offers no way to log in that we accept"),
            "ssl_invalid_chain": self._not_verified,
            "connection_failed": self._not_reached,
            "reconnect_delay": self._round_over,
            "stream_error": self._stream_error,
            "disconnected": self._closed,
        }
        for name, handler in self._handlers.items():
            xmpp.add_event_handler(name, handler)

    def close(self) -> None:
        """Stop watching."""
        for name, handler in self._handlers.items():
            self._xmpp.del_event_handler(name, handler)

    def _begin(self, _: object) -> None:
        self.problem, self._in_session = None, False

    def _session(self, _: object) -> None:
        self.problem, self._reason, self._last_words = None, None, ""
        self._in_session = self._had_session = True

    def _not_reached(self, reason: object) -> None:
        """One address failed; slixmpp continues with the next one, if any."""
        if not isinstance(self._reason, ssl.SSLCertVerificationError):
            self._reason = reason

    def _round_over(self, _: object) -> None:
        """No address answered; slixmpp starts again after a pause."""
        reason, self._reason = self._reason, None
        if isinstance(reason, ssl.SSLCertVerificationError):
            self._not_verified(reason.verify_message)
        elif reason is not None:
            self._fail("unreachable", f"no connection: {reason}", temporary=True)

    def _stream_error(self, error: Any) -> None:
        condition = str(error["condition"])
        if self._in_session:
            text = displayable(str(error["text"])[:_WORDS])
            self._last_words = f", after ending the session with {condition}{f' ({text})' if text else ''}"
        else:
            self._fail("refused", f"it answers {condition}", temporary=condition not in _FINAL_CONDITIONS)

    def _closed(self, reason: object) -> None:
        if isinstance(reason, ssl.SSLCertVerificationError):  # arrives before slixmpp's own event, ssl_invalid_chain
            self._not_verified(reason.verify_message)
        elif not self._in_session and self.problem is None:
            why = f": {reason}" if reason else ""
            self._fail("closed", f"it has closed the connection{why}", temporary=True)
        self._in_session = False

    def _not_verified(self, why: object) -> None:
        """A server whose certificate did verify is set right sooner or later: it has expired, as a rule."""
        self._fail("certificate", f"its certificate does not verify: {why}", temporary=self._had_session)

    def _fail(self, reason: str, text: str, *, temporary: bool = False) -> None:
        if self.problem is not None:
            return  # a consequence of it
        where = self._xmpp.custom_address
        server = f"{where[0]}:{where[1]}" if where else self._xmpp.boundjid.domain
        self.problem = LoginFailed(self._xmpp.boundjid.bare, server, reason, text, temporary=temporary)
        self._report(self.problem)


def _not_of_a_closed_stream(record: logging.LogRecord) -> bool:
    """Drop slixmpp's traceback for each stanza that comes too late for its connection; all of ours are sent again."""
    return not (record.exc_info and isinstance(record.exc_info[1], NotConnectedError))


class KeptConnection:
    """A client that connects and reconnects.

    :ivar failed: the reason for giving up
    :param presence: whether to send presence
    :param in_session: whether the client is in a session already, for which presence has been sent
    """

    def __init__(self, bot: ClientXMPP, presence: bool, *, in_session: bool = False) -> None:
        self.failed: asyncio.Future[MLSError] = asyncio.get_running_loop().create_future()
        self._bot = bot
        self._presence = presence
        self._pause = _FIRST_PAUSE
        self._again: asyncio.Task[None] | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._pinging: asyncio.Task[None] | None = None
        self._watch = LoginWatch(bot, self._problem)
        self._handlers: dict[str, Callable[[Any], None]] = {
            "connected": self._connected,
            "session_start": self._session,
            "session_resumed": self._session,
            "stream_error": self._stream_error,
            "disconnected": self._disconnected,
            "mls_retired": lambda _: self._give_up(DeviceRetired("our account has retired this device")),
        }
        for name, handler in self._handlers.items():
            bot.add_event_handler(name, handler)
        _slixmpp_log.addFilter(_not_of_a_closed_stream)
        if in_session:
            self._begin_pinging()
        else:
            bot.connect()

    async def close(self) -> None:
        """Log out cleanly, and close the store."""
        for name, handler in self._handlers.items():
            self._bot.del_event_handler(name, handler)
        self._watch.close()
        self._end_limit()
        self._end_pinging()
        if self._again is not None:
            self._again.cancel()
        self._bot.cancel_connection_attempt()
        if self._bot.is_connected():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._bot.disconnect(), _GOODBYE)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        if "mls" in self._bot.plugin:
            self._bot.plugin.disable("mls")  # type: ignore[attr-defined]
        self._bot.abort()
        self._bot.cancel_connection_attempt()
        await asyncio.sleep(0)  # lets slixmpp run its pending callbacks
        sending = self._bot._run_out_filters  # sends what is still queued, which would come too late
        if sending is not None:
            sending.cancel()
            await asyncio.wait([sending])
        _slixmpp_log.removeFilter(_not_of_a_closed_stream)
        self.failed.cancel()

    def _problem(self, problem: LoginFailed) -> None:
        if problem.temporary:
            log.warning("%s; it is tried again", problem)
        else:
            self._bot.cancel_connection_attempt()
            self._give_up(problem)

    def _give_up(self, error: MLSError) -> None:
        if not self.failed.done():
            self.failed.set_result(error)

    def _connected(self, _: object) -> None:
        self._end_limit()
        self._await_session(self._bot.loop.time() + _LOGIN)

    def _await_session(self, until: float) -> None:
        loop, transport = self._bot.loop, self._bot.transport
        if loop.time() >= until:
            log.info("no session %g s after the connection was made; it is closed", _LOGIN)
            abort(self._bot)
        elif transport is not None and transport.is_closing():
            abort(self._bot)
        else:
            self._limit = loop.call_later(_LOOK, self._await_session, until)

    def _end_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()

    def _session(self, _: object) -> None:
        self._end_limit()
        self._begin_pinging()
        self._pause = _FIRST_PAUSE
        if self._presence:  # without it, the server holds messages back, invitations included
            self._bot.send_presence()

    def _begin_pinging(self) -> None:
        self._end_pinging()
        self._pinging = asyncio.create_task(self._ping(), name="ping")

    async def _ping(self) -> None:
        stream = Stream.of(self._bot)
        try:
            while True:
                await asyncio.sleep(_PING_INTERVAL)
                await stream.flushed(_PING_PATIENCE)
        except NoAnswer:
            log.warning("%s does not answer any more; the connection is closed", self._bot.boundjid.domain)
            abort(self._bot)
        except Disconnected:
            pass
        except Exception as error:
            log.exception("asking for a sign of life has failed")
            self._bot.event("mls_failed", error)

    def _end_pinging(self) -> None:
        if self._pinging is not None:
            self._pinging.cancel()

    def _stream_error(self, error: Any) -> None:
        """RFC 6120 4.9.3.3: after a conflict choose another resource.  Two programs with the same one, as from a copied
        configuration, would otherwise end each other's sessions forever."""
        address = self._bot.requested_jid
        if address.resource and str(error["condition"]) == "conflict":
            text = displayable(str(error["text"])[:_WORDS]) or "another program has logged in with it"
            log.warning(
                "the server has ended the session of %s: %s; this one goes on with another resource", address, text
            )
            self._bot.requested_jid = JID(address.bare)  # the server chooses one

    def _disconnected(self, _: object) -> None:
        self._end_limit()
        self._end_pinging()
        if not self.failed.done() and (self._again is None or self._again.done()):
            self._again = asyncio.create_task(self._connect_again(), name="connect again")

    async def _connect_again(self) -> None:
        await asyncio.sleep(self._pause * uniform(0.5, 1.0))  # noqa: S311
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        try:
            self._bot.connect()
        except Exception as error:
            log.exception("connecting again has failed")
            self._bot.event("mls_failed", error)


@asynccontextmanager
async def connected(bot: ClientXMPP, *, presence: bool = True) -> AsyncIterator[None]:
    """Connect a bot and keep it connected until the block ends; then log out and close the store.

    Inside the block the plugin is ready: :meth:`slixmpp_mls.MLS.ready` has returned.  If a later login fails for good,
    as after a change of the password, or our account retires this device, the block is cancelled where it waits, and
    the error is raised in its place.

    ::

        async with connected(bot):
            await MLS.of(bot).room(room).send("Build 42 failed")

    :param bot: with the plugin, not connected; see :meth:`slixmpp_mls.Login.bot`.  It cannot be used afterwards
    :param presence: whether to send presence; without it, no invitations arrive
    :raises LoginFailed: there is no session, or there will be none again
    :raises DeviceRetired: our account has retired this device
    :raises: as :meth:`slixmpp_mls.MLS.ready`
    """
    plugin = _plugin(bot)
    kept = KeptConnection(bot, presence)
    try:
        async with asyncio.timeout(None) as block:

            def end(failed: asyncio.Future[MLSError]) -> None:
                with suppress(RuntimeError):  # the block has ended already
                    if not failed.cancelled():
                        block.reschedule(0)

            kept.failed.add_done_callback(end)
            await plugin.ready()
            yield
    except TimeoutError:
        if block.expired():
            raise kept.failed.result() from None
        raise
    finally:
        await kept.close()


def run(bot: ClientXMPP, *, presence: bool = True) -> None:
    """Run a bot until SIGTERM or Ctrl-C: connect, reconnect whenever the connection breaks, log out cleanly.

    A permanent failure ends the process, with a message on stderr and an exit code (:func:`exit_code`).

    :param bot: with the plugin, not connected; see :meth:`slixmpp_mls.Login.bot`
    :param presence: whether to send presence; without it, no invitations arrive
    :raises SystemExit: the bot cannot continue
    """
    with asyncio.Runner(loop_factory=lambda: bot.loop) as runner:
        error = runner.run(_serve(bot, presence))
    if error is not None:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        raise SystemExit(exit_code(error))


def exit_code(error: BaseException) -> int:
    """The exit code of a process that ends with this error (BSD's sysexits).

    77: the password or the device is refused.  78: the configuration, including the certificate.  74: the store.
    69: the server, for another reason.  75: a temporary failure.  1: anything else.
    """
    if isinstance(error, LoginFailed):
        if error.temporary:
            return os.EX_TEMPFAIL
        return {"password": os.EX_NOPERM, "certificate": os.EX_CONFIG}.get(error.reason, os.EX_UNAVAILABLE)
    if isinstance(error, DeviceRetired):
        return os.EX_NOPERM
    if isinstance(error, UsageError):
        return os.EX_CONFIG
    if isinstance(error, StoreError):
        return os.EX_IOERR
    if isinstance(error, MLSError):
        return os.EX_UNAVAILABLE
    return 1


async def _serve(bot: ClientXMPP, presence: bool) -> MLSError | None:
    """Serve until a signal stops us (None) or an error ends it."""
    plugin = _plugin(bot)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError, RuntimeError, ValueError):  # unsupported here, or not the main thread
            loop.add_signal_handler(number, stop.set)
    kept = KeptConnection(bot, presence)
    stopped = asyncio.create_task(stop.wait())
    ready = asyncio.create_task(_ready(plugin))
    ends: list[asyncio.Future[Any]] = [stopped, kept.failed]
    try:
        await asyncio.wait([*ends, ready], return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        return None if stopped.done() else kept.failed.result()
    except MLSError as error:
        return error
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(number)  # a second signal ends the process at once
        for task in (stopped, ready):
            task.cancel()
        await asyncio.wait([stopped, ready])
        await kept.close()


async def _ready(plugin: Any) -> None:
    """As the plugin's ``ready``, but wait for a server that cannot be reached."""
    while True:
        try:
            await plugin.ready()
            return
        except LoginFailed as problem:
            if not problem.temporary:
                raise
            await asyncio.sleep(_FIRST_PAUSE)


def _plugin(bot: ClientXMPP) -> Any:
    plugin: Any = bot.plugin.get("mls", None)
    if plugin is None:
        raise UsageError('the bot needs the plugin: bot.register_plugin("mls", {"store": "bot.db"})')
    return plugin
