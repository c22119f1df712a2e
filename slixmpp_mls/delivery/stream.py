"""The XMPP stream of one client, for the rest of the delivery code.

This module narrows slixmpp's interface and closes gaps in it that would break correctness:

* In slixmpp, an unanswered request stays pending for two minutes even if the stream has ended in the meantime.
  `Stream.ask` fails at once with `Disconnected`.
* slixmpp keeps stanzas that are "sent" without a session, and sends them in the next one.  The caller has its own queue
  in a store and would send twice: `Stream.write` refuses.
* slixmpp keeps its queue when the connection breaks, and writes what is left in it to the next connection, at once:
  before TLS, to a server that is not authenticated, whose error looks like the recipient's.  What has not been written
  when the stream ends is withdrawn; its sender knows that it has not been sent.
* Coroutine handlers run as independent tasks and lose the order of the stanzas.  Here one plain callback per client
  passes every stanza of the rooms in use to its reader, in order.  It looks the room up in a dictionary, so two hundred
  rooms cost no more than one.
* A server closes the stream after too large a stanza (``policy-violation``) and does not report its limit.  Sending the
  stanza again after each reconnection would never end.  `Stream.limit` is lowered instead.  (Prosody and ejabberd do
  not resume such a stream; a resumption would make slixmpp send the stanza again.)
* slixmpp takes a refused resource binding (it happens if the connection broke during an earlier attempt) for a session
  with an empty JID.  Here that stream is closed, and our JID is kept.
* Errors of slixmpp do not leave this module: they are translated to `slixmpp_mls.errors`.

There is one `Stream` for each client; `Stream.of` returns it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary
from xml.etree.ElementTree import Element

from slixmpp import JID, ClientXMPP
from slixmpp.exceptions import IqError, IqTimeout, XMPPError
from slixmpp.stanza import Message, Presence
from slixmpp.xmlstream import StanzaBase
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher.base import MatcherBase

from ..errors import DeliveryError, Disconnected, NoAnswer, NotPermitted, Refused, StanzaTooLarge, UsageError
from ..stanza.xml import is_xml_text

log = logging.getLogger(__name__)
T = TypeVar("T")

MAM = "urn:xmpp:mam:2"
#: Octets of one serialised stanza at most.  Above their limit (262,144 on many), servers close the stream, and a
#: federated room loses its remote members.
MAX_STANZA = 240_000
#: Octets that every server must accept (RFC 6120 13.12).
MIN_LIMIT = 10_000
#: Seconds to wait for the answer to a request.
TIMEOUT = 30.0
#: Requests of one call, or to one service, that are on their way at the same time.
AT_ONCE = 8
#: Conditions that mean "you may not", in contrast to "it cannot be done".
_FORBIDDING = frozenset({"forbidden", "not-authorized", "not-allowed", "registration-required"})


class RoomReader(Protocol):
    """Receives the stanzas of a room and the state of the stream."""

    def message_received(self, xml: Element) -> None:
        """A message from the room or an occupant, archive results excepted."""

    def presence_received(self, xml: Element) -> None:
        """A presence from the room or an occupant."""

    def stream_started(self, resumed: bool) -> None:
        """The stream is usable (again).  Unless it is `resumed`, the server has forgotten our presences."""

    def stream_stopped(self) -> None:
        """The stream has ended; it may be resumed."""


class _FromRooms(MatcherBase):
    """Matches messages and presences whose sender belongs to a room in use."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)

    def match(self, xml: Any) -> bool:
        # The name says `xml`, slixmpp passes the stanza object.
        if xml.name not in ("message", "presence"):
            return False
        return self._criteria.serves(bare(self._criteria.sender(xml.xml)))  # type: ignore[no-any-return]


class Stream:
    """The stream of one client.  Use `Stream.of(xmpp)`, not the constructor."""

    _streams: WeakKeyDictionary[ClientXMPP, Stream] = WeakKeyDictionary()

    @classmethod
    def of(cls, xmpp: ClientXMPP) -> Stream:
        """The client's stream, the same object at every call."""
        if xmpp not in cls._streams:
            cls._streams[xmpp] = cls(xmpp)
        return cls._streams[xmpp]

    def __init__(self, xmpp: ClientXMPP) -> None:
        self.xmpp = xmpp
        # Others name any number of services: each is known while somebody uses its semaphore.
        self._entrances: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._queries: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        #: Whether stanzas can be sent now.
        self.online = xmpp.is_connected() and xmpp.session_bind_event.is_set()
        #: Octets of the largest message to write: below `MAX_STANZA` if the server has closed the stream for less.
        self.limit = MAX_STANZA
        self._largest = 0  # since the stream began
        self._rooms: dict[str, RoomReader] = {}
        self._collectors: dict[str, dict[str, Callable[[Element], None]]] = {}
        self._pending: set[asyncio.Future[Any]] = set()
        self._writing: dict[int, asyncio.Future[None]] = {}
        # Ours, by their id(); slixmpp may drop them.
        self._queued: WeakValueDictionary[int, StanzaBase] = WeakValueDictionary()
        self._withdrawn: WeakValueDictionary[int, StanzaBase] = WeakValueDictionary()
        xmpp.register_handler(Callback("MLS rooms", _FromRooms(self), self._dispatch))
        # Before all others: XEP-0198's counts what it sees, and sends it again (slixmpp takes 0 for the last place).
        xmpp.add_filter("out_sync", self._written, -1000)
        xmpp.add_event_handler("session_bind", self._bound)
        xmpp.add_event_handler("session_start", self._started)
        xmpp.add_event_handler("session_resumed", self._resumed)
        xmpp.add_event_handler("disconnected", self._stopped)
        xmpp.add_event_handler("stream_error", self._broken)

    def close(self) -> None:
        """Undo the registrations with slixmpp when the plugin ends."""
        self.online = False  # no handler updates it any more
        self._fail_pending()
        self.xmpp.remove_handler("MLS rooms")
        self.xmpp.del_filter("out_sync", self._written)
        self.xmpp.del_event_handler("session_bind", self._bound)
        self.xmpp.del_event_handler("session_start", self._started)
        self.xmpp.del_event_handler("session_resumed", self._resumed)
        self.xmpp.del_event_handler("disconnected", self._stopped)
        self.xmpp.del_event_handler("stream_error", self._broken)
        self._streams.pop(self.xmpp, None)

    # The session

    def _bound(self, jid: JID) -> None:
        if not jid.bare:
            log.warning("the server has refused to bind a resource; the stream is closed")
            self.xmpp.boundjid = JID(self.xmpp.requested_jid)
            self.xmpp.abort()

    def _started(self, _: object) -> None:
        if not self.xmpp.is_connected():
            return  # see `_bound`
        self.online = True
        self._largest = 0
        for room in list(self._rooms.values()):
            room.stream_started(resumed=False)

    def _resumed(self, _: object) -> None:
        self.online = True
        self._largest = 0
        for room in list(self._rooms.values()):
            room.stream_started(resumed=True)

    def _stopped(self, _: object) -> None:
        self.online = False
        for stanza in list(self._queued.values()):
            self._withdraw(stanza)
        self._fail_pending()
        for room in list(self._rooms.values()):
            room.stream_stopped()

    def _broken(self, error: Any) -> None:
        """RFC 6120 4.9.3.14: the server has closed the stream for a violation, perhaps our largest message."""
        if error["condition"] != "policy-violation" or self._largest <= MIN_LIMIT:
            return
        self.limit = max(MIN_LIMIT, self._largest // 2)
        log.warning(
            "the server has cut the stream after a stanza of %d octets: from now on they have up to %d",
            self._largest,
            self.limit,
        )

    def _withdraw(self, stanza: StanzaBase) -> None:
        """Do not write a stanza that is still in slixmpp's queue: its sender has been told so."""
        if self._queued.pop(id(stanza), None) is not None:
            self._withdrawn[id(stanza)] = stanza

    def _fail_pending(self) -> None:
        for future in [*self._pending, *self._writing.values()]:
            if not future.done():
                future.set_exception(Disconnected("the stream was closed before the answer came"))
        self._writing.clear()

    # Sending

    async def ask(self, kind: str, to: str, payload: Element, patience: float | None = None) -> Element:
        """Send an IQ of type `kind` (``"get"`` or ``"set"``) and return the answer's ``<iq/>``.

        :param patience: seconds until `NoAnswer`; :data:`TIMEOUT` if not given.
        :raises Refused, NotPermitted: an error came back.
        :raises Disconnected: there is no stream, or it broke before the answer.
        :raises UsageError: XML cannot hold it; nothing was sent.
        """
        if not self.online:
            raise Disconnected("no stream to send the request on")
        _check_characters(payload)
        iq = self.xmpp.make_iq(ito=to, itype=kind)  # type: ignore[arg-type]
        iq.append(payload)
        self._queued[id(iq)] = iq
        future = iq.send(timeout=TIMEOUT if patience is None else patience)  # type: ignore[no-untyped-call]
        self._pending.add(future)
        try:
            answer = await future
        except (IqError, IqTimeout) as error:
            self._withdraw(iq)
            raise translated(to, error) from None
        finally:
            self._pending.discard(future)
        xml: Element = answer.xml
        return xml

    async def flushed(self, patience: float | None = None) -> None:
        """Wait until our server has accepted everything that was written before.

        A server processes the stanzas of a stream in order (RFC 6120 10.1): any answer to a request proves that the
        earlier stanzas were processed.

        :param patience: see :meth:`ask`
        :raises Disconnected, NoAnswer: the earlier stanzas may not have been accepted
        """
        with suppress(Refused, NotPermitted):
            await self.ask("get", self.xmpp.boundjid.host, Element("{urn:xmpp:ping}ping"), patience)

    async def write(self, message: Message, size: int) -> None:
        """Send a message; return when it is written to the stream.

        The message may still be lost with the connection: only an answer or a reflection proves
        that it arrived.  It is also sent if the caller is cancelled.

        :param size: the message's size in octets.
        :raises StanzaTooLarge: over `limit`; nothing was sent.
        :raises UsageError: XML cannot hold it; nothing was sent.
        :raises Disconnected: there is no stream, or it broke before the message was written.
        :raises NoAnswer: the client's send queue has not moved for :data:`TIMEOUT`; nothing was sent.
        """
        if size > self.limit:
            raise StanzaTooLarge(size, self.limit)
        _check_characters(message.xml)
        if not self.online:
            raise Disconnected("no stream to send on")
        self._largest = max(self._largest, size)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writing[id(message)] = future
        try:
            self.put(message)
            async with asyncio.timeout(TIMEOUT):
                await future
        except TimeoutError:
            self._withdraw(message)
            raise NoAnswer("the client's send queue does not move") from None
        finally:
            self._writing.pop(id(message), None)

    def put(self, stanza: Message | Presence) -> None:
        """Send a stanza, unless the stream ends before it is written."""
        self._queued[id(stanza)] = stanza
        stanza.send()

    def _written(self, stanza: Any) -> Any:
        """Observe each outgoing stanza just before the socket; drop what was withdrawn; change nothing else."""
        if self._withdrawn.pop(id(stanza), None) is not None:
            return None
        self._queued.pop(id(stanza), None)
        future = self._writing.get(id(stanza))
        if future is not None and not future.done():
            future.set_result(None)
        return stanza

    # Receiving

    def entrance(self, service: str) -> asyncio.Semaphore:
        """The semaphore to hold while entering a room of that service.

        It limits the entries at a time, since each one loads the service with presences from and to all occupants.
        """
        return _of_service(self._entrances, service)

    def query(self, service: str) -> asyncio.Semaphore:
        """The semaphore to hold while querying an archive of that service.

        The answers share one stream.  If many rooms were queried at once, the last answer would miss its time limit.
        """
        return _of_service(self._queries, service)

    def attach(self, room: str, reader: RoomReader) -> None:
        """Pass the stanzas of the room (a bare JID) to `reader` from now on."""
        self._rooms[room] = reader

    def detach(self, room: str, reader: RoomReader) -> None:
        """Stop passing the room's stanzas to this reader."""
        if self._rooms.get(room) is reader:
            del self._rooms[room]

    def collect(self, archive: str, queryid: str, collector: Callable[[Element], None]) -> None:
        """Call `collector` with each result (XEP-0313 ``<result/>``) of the query that `archive` itself sends."""
        self._collectors.setdefault(archive, {})[queryid] = collector

    def end_collect(self, archive: str, queryid: str) -> None:
        """The counterpart of `collect`."""
        collectors = self._collectors.get(archive, {})
        collectors.pop(queryid, None)
        if not collectors:
            self._collectors.pop(archive, None)

    def serves(self, room: str) -> bool:
        """Whether a reader or a collector wants the stanzas of this bare JID."""
        return room in self._rooms or room in self._collectors

    def sender(self, xml: Element) -> str:
        """The sender of a stanza: our own account if there is no `from` (RFC 6120 8.1.2.1), as in Prosody's archive."""
        return xml.get("from") or str(self.xmpp.boundjid.bare)

    def _dispatch(self, stanza: Any) -> None:
        # An exception from a handler makes slixmpp send an error stanza to the sender, here to the whole room.
        try:
            xml: Element = stanza.xml
            sender = self.sender(xml)
            room = bare(sender)
            if stanza.name == "message" and sender == room:
                # Only results from the archive itself count: an occupant's <result/> is an ordinary message.
                result = xml.find(f"{{{MAM}}}result")
                if result is not None:
                    collector = self._collectors.get(room, {}).get(result.get("queryid", ""))
                    if collector is not None:
                        collector(result)
                    return
            reader = self._rooms.get(room)
            if reader is None:
                return
            if stanza.name == "message":
                reader.message_received(xml)
            else:
                reader.presence_received(xml)
        except Exception as error:
            log.exception("a stanza from a room could not be handled")
            self.xmpp.event("mls_failed", error)


def _check_characters(xml: Element) -> None:
    """Reject characters that XML cannot hold, after which the server closes the stream (RFC 6120 4.9.3.13) each time.

    :raises UsageError: there is one; the error message does not repeat it
    """
    for element in xml.iter():
        for text in (element.text, element.tail, *element.attrib.values()):
            if text is not None and not is_xml_text(text):
                raise UsageError(f"<{element.tag.rpartition('}')[2]}/> has a character that XML cannot hold")


def _of_service(known: MutableMapping[str, asyncio.Semaphore], service: str) -> asyncio.Semaphore:
    found = known.get(service)
    if found is None:
        found = known[service] = asyncio.Semaphore(AT_ONCE)
    return found


def bare(jid: str) -> str:
    """The JID without its resource.  The input must be normalised, as JIDs from servers are."""
    return jid.partition("/")[0]


def translated(peer: str, error: XMPPError) -> DeliveryError:
    """Translate an error of slixmpp to ours."""
    if isinstance(error, IqTimeout):
        return NoAnswer(f"{peer} did not answer")
    condition = str(error.condition or "undefined-condition")
    if condition in _FORBIDDING:
        return NotPermitted(f"{peer} answered {condition}{f': {error.text}' if error.text else ''}")
    return Refused(peer, condition, str(error.text or ""))


async def in_parallel(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run the calls, at most :data:`AT_ONCE` at the same time, and return their results.

    The first error cancels the rest and is raised as it is.
    """
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(call: Coroutine[Any, Any, T]) -> T:
        async with slots:
            return await call

    def begin(call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(one(call))
        task.add_done_callback(lambda _: call.close())  # cancelled before it acquired the semaphore
        return task

    tasks = [begin(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
