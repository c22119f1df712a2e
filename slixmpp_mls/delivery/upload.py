"""Encrypted blobs on the account's upload service (XEP-0363), and from anybody's.

To put: find the service (once), encrypt, ask it for a slot, send the octets there.  To get: fetch no more octets
than the reference says, compare the hash, decrypt (:mod:`slixmpp_mls.stanza.blob`).  HTTPS only, verified as the XMPP
stream is (``xmpp.ssl_context``); redirects are not followed, no cookies are kept, no proxy of the environment is used.

Which addresses may be fetched from
-----------------------------------
A reference comes from the member that adds us to a group.  To fetch it, our machine asks a web server that this member
has chosen.  The member learns our network address by it (as the XEP says), and must not reach into networks that only
we can reach.  Therefore a host name is resolved first, and only these addresses are used:

* those of the public internet,
* loopback ones if the XMPP server that we are connected to is at a loopback address, too,
* private ones (RFC 1918, RFC 4193) if it is at a private one,

at the moment of connecting: the socket is made for the address that was judged, so that a name whose address changes
gains nothing.  IPv6 addresses that wrap others (IPv4-mapped, NAT64) are judged by what they wrap, the tunnels of old
(6to4, Teredo, ISATAP) and site-local addresses are refused.  An application with another rule
passes `allow_url`: it gets the URL and decides alone, for instance by a list of hosts.

The address to which our own service tells us to upload is not checked: the account's server decides it.
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
"""Whether a blob may be fetched from a URL that somebody else has chosen."""

_NS = "urn:xmpp:http:upload:0"
_DISCO_INFO = "http://jabber.org/protocol/disco#info"
_DISCO_ITEMS = "http://jabber.org/protocol/disco#items"
_HEADERS = frozenset({"authorization", "cookie", "expires"})  # XEP-0363 5: these and no other
_MAX_SERVICES = 50  # of a server, which are asked what they are
_WHOLE = 120.0  # seconds for a blob
_CONNECTING = 15.0
_STALLED = 30.0  # seconds without any progress
_CHUNK = 1 << 16
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # RFC 9110 15: may be better next time


@dataclass(frozen=True, slots=True)
class _Service:
    jid: str
    limit: int | None


class Uploads:
    """Puts blobs on our server's upload service, and gets them from where a reference says.

    :param allow_url: instead of the rule above
    :param pauses: seconds between the attempts to put
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
        """Encrypt octets and upload them.  The service decides how long they stay, often 7 days or more.

        :raises NoUploadService: our server has none
        :raises BlobTooLarge: for the service, or for those who would fetch it (`MAX_BLOB`)
        :raises Refused, NotPermitted: the service gives us no slot, for a quota perhaps
        :raises TransferFailed: the web server does not take it; if that may pass, after some attempts
        :raises Disconnected: there is no stream
        """
        size = len(data) + OVERHEAD
        limit = await self.limit()
        limit = MAX_BLOB if limit is None else min(limit, MAX_BLOB)
        if size > limit:
            raise BlobTooLarge(size, limit)
        sealed = seal(data, os.urandom)
        return sealed.at(await self.send(size, lambda: sealed.ciphertext))

    async def limit(self) -> int | None:
        """The most octets that our server's service takes at once, if it says so.

        :raises NoUploadService: our server has none
        """
        return (await self._find_service()).limit

    async def send(self, size: int, body: Callable[[], bytes | AsyncIterator[bytes]]) -> str:
        """Upload octets as they are, and tell at which URL they are now.

        :param size: octets
        :param body: called at each attempt for what is to be sent, `size` octets in all
        :raises: what :meth:`put` does
        """
        service = await self._find_service()
        for pause in (*self._pauses, None):
            try:
                put_url, headers, get_url = await self._slot(service, size)
                headers.append(("Content-Length", str(size)))  # in chunks of unknown number, services take nothing
                await self._upload(put_url, headers, body())
                return get_url
            except (NoAnswer, TransferFailed) as error:
                if pause is None or (isinstance(error, TransferFailed) and not error.temporary):
                    raise
                log.info("uploading %d octets failed, it is tried again: %s", size, error)
                await asyncio.sleep(uniform(0.5, 1.0) * pause)  # noqa: S311
        raise AssertionError("the last attempt returns or raises")

    async def _find_service(self) -> _Service:
        """XEP-0363 4: the first of our server's services that takes uploads."""
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
            return None  # some other service of the server's, out of order
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
        """XEP-0363 5: the slot: the URL to upload to, its headers, and the URL to download from."""
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
        """In pieces, it may take as long as it takes, if only it goes on."""
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

        :raises NotPermitted: it is at an address from which nothing is to be fetched
        :raises MalformedError: there is something else than what was put, or it is over `MAX_BLOB`
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
        """What is at a URL, piece by piece.  The reader counts the octets, and stops when there are too many.

        :param whole: seconds that it may take in all; None if it may take as long as it goes on
        :raises NotPermitted: it is at an address from which nothing is to be fetched
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
        """The kinds of addresses from which something may be fetched."""
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
_UNICAST = ip_network("2000::/3")  # all of IPv6 that is given out for the internet (RFC 4291 2.4)
_NAT64 = ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are the IPv4 address that is meant
_TUNNELS = tuple(
    map(
        ip_network,
        # 6to4 (RFC 3056) and its relays (RFC 7526), Teredo (RFC 4380): the address inside is whatever somebody wrote.
        ("2002::/16", "192.88.99.0/24", "2001::/32"),
    )
)
_DOCUMENTATION = ip_network("3fff::/20")  # RFC 9637, which the standard library learns late
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214 6.1: the third quarter of an address whose last one is an IPv4 address


def _network(address: str) -> str:
    """What kind of network an IP address is in: "public", "loopback", "private" or "other".

    An address that wraps an IPv4 address is judged by that one where the wrapping is in use (IPv4-mapped, NAT64), and
    is "other" where nobody needs it any more.
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
    """For a host that is an IP address already, before anything is opened.

    :raises NotPermitted: nothing is to be fetched from there
    """
    host = _host(url)
    try:
        network = _network(host)
    except ValueError:
        # Short and octal forms of addresses, which some resolvers understand: no host's name ends in a number.
        last = host.rstrip(".").rpartition(".")[2]
        if not re.fullmatch("[0-9]+|0x[0-9a-f]*", last):
            return
        network = "other"
    if network not in networks:
        raise NotPermitted(f"nothing is to be fetched from the address {host}")


class _Refused(OSError):
    """The address is not one to connect to.  (Of an OSError alone the library tries the host's other addresses.)"""


class _Resolver(AbstractResolver):
    """Gives only addresses of some kinds of networks."""

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
        """The socket for one connection.  What is judged here is the address that is connected to, whoever found it.

        :raises _Refused: nothing is to be fetched from there
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
    """The same pieces; each one that is taken is progress."""
    async for piece in pieces:
        patience.reschedule(asyncio.get_running_loop().time() + _STALLED)
        yield piece


@asynccontextmanager
async def _errors_of(url: str) -> AsyncIterator[None]:
    """Errors of aiohttp become ours."""
    try:
        yield
    except aiohttp.InvalidURL:
        raise TransferFailed("not a URL that can be used", temporary=False) from None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, _Refused):
            raise NotPermitted(f"nothing is to be fetched from the address of {_host(url)}") from None
        reason = str(error) or type(error).__name__
        raise TransferFailed(f"{_host(url)} cannot be reached: {reason}", temporary=True) from error
