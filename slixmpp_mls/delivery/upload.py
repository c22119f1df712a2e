"""Uploads encrypted blobs to the account's service (XEP-0363), and downloads blobs from any service.

Upload: find the service (once), encrypt, request a slot, send the octets to it.  Download: fetch at most the octets
that the reference states, compare the hash, decrypt (:mod:`slixmpp_mls.stanza.blob`).  Only HTTPS is used, with the
certificate verification of the XMPP stream (``xmpp.ssl_context``).  Redirects, cookies and proxies of the environment
are ignored.

Which addresses may be fetched from
-----------------------------------
A reference comes from the member that adds us to a group.  To fetch it, our machine contacts a web server that this
member has chosen.  The member thereby learns our network address (as the XEP says), and must not reach into networks
that only we can reach.  Therefore a host name is resolved first, and only these addresses are used:

* those of the public internet,
* loopback ones if the XMPP server that we are connected to is at a loopback address, too,
* private ones (RFC 1918, RFC 4193) if it is at a private one.

The check happens at connection time: the socket is created for the checked address, so a name whose address changes
cannot evade it.  IPv6 addresses that embed IPv4 addresses (IPv4-mapped, NAT64) are checked by the embedded address.
Obsolete tunnels (6to4, Teredo, ISATAP) and site-local addresses are refused.  An application with another rule passes
`allow_url`: the function gets the URL and decides alone, for instance by a list of hosts.

The upload address that our own service returns is not checked: the account's server decides it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from random import uniform
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
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
from ..stanza.blob import MAX_BLOB, OVERHEAD, BlobReference, check_url, seal
from .forms import FORM
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
_WHOLE = 120.0  # seconds for a blob
_CONNECTING = 15.0
_STALLED = 30.0  # seconds without any progress
_CHUNK = 1 << 16
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # RFC 9110 15: temporary failures


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
        :raises BlobTooLarge: over the limit of the service, or of the receivers (`MAX_BLOB`)
        :raises Refused, NotPermitted: the service gives us no slot, for example because of a quota
        :raises TransferFailed: the web server refuses it; a temporary failure is raised after several attempts
        :raises Disconnected: there is no stream
        """
        size = len(data) + OVERHEAD
        await self.check(len(data))
        sealed = seal(data, os.urandom)
        return sealed.at(await self.send(size, lambda: sealed.ciphertext))

    async def check(self, size: int) -> None:
        """Determine whether :meth:`put` would take so many octets.

        :raises NoUploadService: our server has none
        :raises BlobTooLarge: over the limit of the service, or of the receivers (`MAX_BLOB`)
        """
        limit = await self.limit()
        limit = MAX_BLOB if limit is None else min(limit, MAX_BLOB)
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
        """Upload the octets.  An upload in pieces has no total time limit, as long as it makes progress."""
        async with (
            _errors_of(url),
            asyncio.timeout(_WHOLE if isinstance(octets, bytes) else _STALLED) as patience,
            self._session(None, aiohttp.ClientTimeout(total=None, sock_connect=_CONNECTING)) as http,
            http.put(
                url,
                data=octets if isinstance(octets, bytes) else _rescheduling(patience, octets),
                headers=headers,
                allow_redirects=False,
            ) as response,
        ):
            _check_status(url, response, {200, 201, 204})

    # --- getting -------------------------------------------------------------------------------

    async def get(self, reference: BlobReference) -> bytes:
        """Fetch and decrypt a blob, in one attempt.

        :raises NotPermitted: its address is not one that may be fetched from
        :raises MalformedError: the content is not what was uploaded, or it is over `MAX_BLOB`
        :raises TransferFailed: it cannot be fetched; `temporary` says whether to try again
        """
        if reference.size > MAX_BLOB:
            raise MalformedError(f"a blob of {reference.size} octets is over the limit of {MAX_BLOB}")
        octets = bytearray()
        async with aclosing(self.fetch(reference.url)) as chunks:
            async for chunk in chunks:
                octets += chunk
                if len(octets) > reference.size:
                    raise MalformedError(f"a blob of more than the {reference.size} octets that its reference says")
        return reference.open(bytes(octets))

    async def fetch(self, url: str, whole: float | None = _WHOLE) -> AsyncGenerator[bytes, None]:
        """Fetch a URL piece by piece.  The caller counts the octets, and stops when there are too many.

        :param whole: time limit in seconds; None: no limit as long as there is progress
        :raises NotPermitted: its address is not one that may be fetched from
        :raises TransferFailed: it cannot be fetched; `temporary` says whether to try again
        """
        resolver: _Resolver | None = None
        if self._allow_url is None:
            resolver = _Resolver(self._networks())
            _check_host(url, resolver.networks)
        elif not self._allow_url(url):
            raise NotPermitted(f"nothing is to be fetched from {_host(url)}")
        timing = aiohttp.ClientTimeout(total=whole, sock_connect=_CONNECTING, sock_read=_STALLED)
        async with (
            _errors_of(url),
            self._session(resolver, timing) as http,
            http.get(url, headers={"Accept-Encoding": "identity"}, allow_redirects=False) as response,
        ):
            _check_status(url, response, {200})
            async for chunk in response.content.iter_chunked(_CHUNK):
                yield chunk

    def _networks(self) -> frozenset[str]:
        """The kinds of networks that may be fetched from."""
        transport = self._xmpp.transport
        peer = None if transport is None else transport.get_extra_info("peername")
        return frozenset({"public"} if not peer else {"public", _network(peer[0])}) - {"other"}

    def _session(self, resolver: _Resolver | None, timing: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            ssl=self._xmpp.get_ssl_context(),
            resolver=resolver,
            use_dns_cache=False,
            force_close=True,
            socket_factory=None if resolver is None else resolver.socket,
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timing,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            headers={"User-Agent": "slixmpp-mls"},
        )


# --- addresses -------------------------------------------------------------------------------


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


_PRIVATE = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))  # RFC 1918, RFC 4193
_UNICAST = ip_network("2000::/3")  # the allocated global unicast range of IPv6 (RFC 4291 2.4)
_NAT64 = ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are the IPv4 address
_TUNNELS = tuple(
    map(
        ip_network,
        # 6to4 (RFC 3056) and its relays (RFC 7526), Teredo (RFC 4380): anybody can choose the inner one.
        ("2002::/16", "192.88.99.0/24", "2001::/32"),
    )
)
_DOCUMENTATION = ip_network("3fff::/20")  # RFC 9637, missing in older standard libraries
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214 6.1: the third quarter of an address whose last one is an IPv4 address


def _network(address: str) -> str:
    """The kind of network of an IP address: "public", "loopback", "private" or "other".

    An address that embeds an IPv4 address is classified by that one if the embedding is in use (IPv4-mapped, NAT64),
    and is "other" if the embedding is obsolete.
    """
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        elif parsed in _NAT64:
            inner = IPv4Address(int(parsed) & 0xFFFFFFFF)
            # RFC 6052 3.1: this prefix does not represent addresses that are not global.
            return "public" if _network(str(inner)) == "public" else "other"
    if parsed.is_loopback:
        return "loopback"
    if any(parsed in network for network in _PRIVATE):
        return "private"
    if parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified or parsed.is_reserved:
        return "other"
    if any(parsed in network for network in (*_TUNNELS, _DOCUMENTATION)):
        return "other"
    if isinstance(parsed, IPv6Address) and (parsed not in _UNICAST or int(parsed) >> 32 & 0xFFFFFFFF in _ISATAP):
        return "other"
    return "public" if parsed.is_global else "other"


def _check_host(url: str, networks: frozenset[str]) -> None:
    """Check a host that is an IP address literal before a connection is opened.

    :raises NotPermitted: the address is not one that may be fetched from
    """
    host = _host(url)
    try:
        network = _network(host)
    except ValueError:
        # Some resolvers accept short and octal forms of addresses.  No host name ends in a number.
        last = host.rstrip(".").rpartition(".")[2]
        if not re.fullmatch("[0-9]+|0x[0-9a-f]*", last):
            return
        network = "other"
    if network not in networks:
        raise NotPermitted(f"nothing is to be fetched from the address {host}")


class _Refused(OSError):
    """Connecting to the address is not allowed.  (After an OSError the library tries the host's other addresses.)"""


class _Resolver(AbstractResolver):
    """Resolves host names to addresses of the allowed kinds of networks only."""

    def __init__(self, networks: frozenset[str]) -> None:
        self.networks = networks
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        allowed = [each for each in found if _network(each["host"]) in self.networks]
        if found and not allowed:
            raise NotPermitted(f"nothing is to be fetched from the address of {host}")
        return allowed

    def socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """Create the socket for one connection.  This checks the address of the connection, however it was resolved.

        :raises _Refused: the address is not one that may be fetched from
        """
        family, kind, protocol, _, address = info
        if _network(str(address[0])) not in self.networks:
            raise _Refused("an address from which nothing is to be fetched")
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        await self._resolver.close()


# --- answers ---------------------------------------------------------------------------------


def _check_status(url: str, response: aiohttp.ClientResponse, good: set[int]) -> None:
    if response.status not in good:
        raise TransferFailed(f"{_host(url)} answered {response.status}", temporary=response.status in _PASSING)


async def _rescheduling(patience: asyncio.Timeout, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pass the pieces through; each one restarts the time limit."""
    async for piece in pieces:
        patience.reschedule(asyncio.get_running_loop().time() + _STALLED)
        yield piece


@asynccontextmanager
async def _errors_of(url: str) -> AsyncIterator[None]:
    """Translate errors of aiohttp to ours."""
    try:
        yield
    except aiohttp.InvalidURL:
        raise TransferFailed("not a URL that can be used", temporary=False) from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, _Refused):
            raise NotPermitted(f"nothing is to be fetched from the address of {_host(url)}") from None
        reason = str(error) or type(error).__name__
        raise TransferFailed(f"{_host(url)} cannot be reached: {reason}", temporary=True) from error
