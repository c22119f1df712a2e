"""Uploads encrypted blobs to the account's service (XEP-0363), and downloads blobs from any service.

Upload: find the service (once), encrypt, request a slot, send the octets to it.  Download: fetch at most the octets
that the reference states, compare the hash, decrypt (:mod:`slixmpp_mls.stanza.blob`).  Only HTTPS is used, with the
certificate verification of the XMPP stream (``xmpp.ssl_context``).  Redirects, cookies and proxies of the environment
are ignored.

Which addresses may be fetched from: :mod:`.networks`.

The upload address that our own service returns is not checked: the account's server decides it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from random import uniform
from xml.etree.ElementTree import Element

from slixmpp import ClientXMPP

from ..errors import (
    BlobTooLarge,
    DeliveryError,
    Disconnected,
    MalformedError,
    NoAnswer,
    NotPermitted,
    NoUploadService,
    TransferFailed,
)
from ..stanza.blob import MAX_TREE, OVERHEAD, BlobReference, Opening, Sealing, check_url
from .forms import FORM
from .networks import check_host, host_of, network_of
from .stream import Stream, in_parallel

__all__ = ["AllowURL", "Uploads"]

log = logging.getLogger(__name__)

AllowURL = Callable[[str], bool]
"""Decides whether a blob may be fetched from a URL that another member has chosen."""

_NS = "urn:xmpp:http:upload:0"
_DISCO_INFO = "http://jabber.org/protocol/disco#info"
_DISCO_ITEMS = "http://jabber.org/protocol/disco#items"
_HEADERS = frozenset({"authorization", "cookie", "expires"})  # XEP-0363 5: only these
_MAX_SERVICES = 50  # of a server that are queried with disco#info at most
_WHOLE = 120.0  # seconds for something that is fetched ...
_SPEED = 1 << 20  # ... and for a blob as many more as a connection needs with so many octets in a second
_AT_ONCE = 1 << 20  # octets that are uploaded in one piece


@dataclass(frozen=True, slots=True)
class _Service:
    jid: str
    limit: int | None


class Uploads:
    """Uploads blobs to our server's upload service, and downloads blobs by their references.

    :param allow_url: replaces the address rule of this module
    :param pauses: seconds between the upload attempts
    """

    def __init__(
        self, xmpp: ClientXMPP, *, allow_url: AllowURL | None = None, pauses: Sequence[float] = (1.0, 4.0, 10.0)
    ) -> None:
        self._xmpp = xmpp
        self._stream = Stream.of(xmpp)
        self._allow_url = allow_url
        self._pauses = pauses
        self._service: _Service | None = None
        self._looking = asyncio.Lock()

    # --- putting -------------------------------------------------------------------------------

    async def put(self, data: bytes) -> BlobReference:
        """Encrypt octets and upload them.  The service decides how long it keeps them, often 7 days or more.

        :raises NoUploadService: our server has none
        :raises BlobTooLarge: over the limit of the service, or of the receivers (`MAX_TREE`)
        :raises Refused, NotPermitted: the service gives us no slot, for example because of a quota
        :raises TransferFailed: the web server refuses it; a temporary failure is raised after several attempts
        :raises Disconnected: there is no stream
        """
        await self.check(len(data))
        sealing = Sealing(data, os.urandom)

        def body() -> bytes | AsyncIterator[bytes]:
            return sealing.ciphertext if sealing.size <= _AT_ONCE else _spread(sealing.pieces())

        return sealing.at(await self.send(sealing.size, body))

    async def check(self, size: int) -> None:
        """Determine whether :meth:`put` would take so many octets.

        :raises NoUploadService: our server has none
        :raises BlobTooLarge: over the limit of the service, or of the receivers (`MAX_TREE`)
        """
        limit = await self.limit()
        limit = MAX_TREE if limit is None else min(limit, MAX_TREE)
        if size + OVERHEAD > limit:
            raise BlobTooLarge(size + OVERHEAD, limit)

    async def limit(self) -> int | None:
        """The most octets that our server's service accepts at once; None if it states no limit.

        :raises NoUploadService: our server has none
        """
        return (await self._find_service()).limit

    async def send(self, size: int, body: Callable[[], bytes | AsyncIterator[bytes]]) -> str:
        """Upload octets as they are; return their URL.

        :param size: octets
        :param body: called at each attempt; returns the octets to send, `size` in all
        :raises: as :meth:`put`
        """
        service = await self._find_service()
        for pause in (*self._pauses, None):
            try:
                put_url, headers, get_url = await self._slot(service, size)
                headers.append(("Content-Length", str(size)))  # services refuse chunked transfer without a length
                await self._upload(put_url, headers, body())
                return get_url
            except (NoAnswer, TransferFailed) as error:
                if pause is None or (isinstance(error, TransferFailed) and not error.temporary):
                    raise
                log.info("uploading %d octets failed, it is tried again: %s", size, error)
                await asyncio.sleep(uniform(0.5, 1.0) * pause)  # noqa: S311
        raise AssertionError("the last attempt returns or raises")

    async def _find_service(self) -> _Service:
        """Find the first of our server's services that accepts uploads (XEP-0363 4)."""
        async with self._looking:
            if self._service is None:
                domain = self._xmpp.boundjid.domain
                answer = await self._stream.ask("get", domain, Element(f"{{{_DISCO_ITEMS}}}query"))
                items = answer.iterfind(f"{{{_DISCO_ITEMS}}}query/{{{_DISCO_ITEMS}}}item")
                jids = dict.fromkeys([item.get("jid", "") for item in items][:_MAX_SERVICES])
                found = await in_parallel([self._ask_service(jid) for jid in (*jids, domain) if jid])
                services = [service for service in found if service is not None]
                if not services:
                    raise NoUploadService(f"{domain} has no HTTP upload (XEP-0363)")
                self._service = services[0]
            return self._service

    async def _ask_service(self, jid: str) -> _Service | None:
        try:
            answer = await self._stream.ask("get", jid, Element(f"{{{_DISCO_INFO}}}query"), 10.0)
        except Disconnected:
            raise
        except DeliveryError:
            return None  # another service of the server is out of order
        query = answer.find(f"{{{_DISCO_INFO}}}query")
        features = [] if query is None else [each.get("var") for each in query.iterfind(f"{{{_DISCO_INFO}}}feature")]
        if query is None or _NS not in features:
            return None
        for form in query.iterfind(f"{{{FORM}}}x"):
            fields = {each.get("var"): each.findtext(f"{{{FORM}}}value") or "" for each in form}
            if fields.get("FORM_TYPE") == _NS and re.fullmatch("[0-9]{1,18}", fields.get("max-file-size", "")):
                return _Service(jid, int(fields["max-file-size"]))
        return _Service(jid, None)

    async def _slot(self, service: _Service, size: int) -> tuple[str, list[tuple[str, str]], str]:
        """Request a slot (XEP-0363 5): the upload URL, its headers, and the download URL."""
        attributes = {"filename": "blob", "size": str(size), "content-type": "application/octet-stream"}
        answer = await self._stream.ask("get", service.jid, Element(f"{{{_NS}}}request", attributes))
        slot = answer.find(f"{{{_NS}}}slot")
        put = None if slot is None else slot.find(f"{{{_NS}}}put")
        get = None if slot is None else slot.find(f"{{{_NS}}}get")
        try:
            if put is None or get is None:
                raise MalformedError("no slot")
            urls = check_url(put.get("url", "")), check_url(get.get("url", ""))
        except MalformedError as error:
            raise TransferFailed(f"{service.jid} gave no slot with https URLs", temporary=False) from error
        headers = [("Content-Type", "application/octet-stream")]
        for header in put.iterfind(f"{{{_NS}}}header"):
            name = re.sub(r"[\r\n]", "", header.get("name", ""))
            if name.lower() in _HEADERS:
                headers.append((name, re.sub(r"[\r\n]", "", header.text or "")))
        return urls[0], headers, urls[1]

    async def _upload(self, url: str, headers: list[tuple[str, str]], octets: bytes | AsyncIterator[bytes]) -> None:
        from . import http  # on the first use, see there

        await http.put(self._xmpp.get_ssl_context(), url, headers, octets)

    # --- getting -------------------------------------------------------------------------------

    async def get(self, reference: BlobReference) -> bytes:
        """Fetch and decrypt a blob, in one attempt.

        :raises NotPermitted: its address is not one that may be fetched from
        :raises MalformedError: the content is not what was uploaded, or it is over `MAX_TREE`
        :raises TransferFailed: it cannot be fetched; `temporary` says whether to try again
        """
        if reference.size > MAX_TREE:
            raise MalformedError(f"a blob of {reference.size} octets is over the limit of {MAX_TREE}")
        opening = Opening(reference)
        async with aclosing(self.fetch(reference.url, _WHOLE + reference.size / _SPEED)) as pieces:
            async for piece in pieces:
                opening.add(piece)
        return opening.finish()

    async def fetch(self, url: str, whole: float | None = _WHOLE) -> AsyncGenerator[bytes, None]:
        """Fetch a URL piece by piece.  The caller counts the octets, and stops when there are too many.

        :param whole: time limit in seconds; None: no limit as long as there is progress
        :raises NotPermitted: its address is not one that may be fetched from
        :raises TransferFailed: it cannot be fetched; `temporary` says whether to try again
        """
        networks: frozenset[str] | None = None
        if self._allow_url is None:
            networks = self._networks()
            check_host(url, networks)
        elif not self._allow_url(url):
            raise NotPermitted(f"nothing is to be fetched from {host_of(url)}")
        from . import http  # on the first use, see there

        async with aclosing(http.fetch(self._xmpp.get_ssl_context(), url, networks, whole)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _networks(self) -> frozenset[str]:
        """The kinds of networks that may be fetched from."""
        transport = self._xmpp.transport
        peer = None if transport is None else transport.get_extra_info("peername")
        return frozenset({"public"} if not peer else {"public", network_of(peer[0])}) - {"other"}


async def _spread(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
