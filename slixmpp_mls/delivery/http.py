"""HTTP for :mod:`.upload`: one request for each connection, with the time limits and errors of this package.

Only :mod:`.upload` uses it, and imports it when something is fetched or uploaded: aiohttp takes as long to import as
slixmpp, and most programs never need it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from ..errors import NotPermitted, TransferFailed
from .networks import host_of, network_of

__all__ = ["fetch", "put"]

_WHOLE: Final = 120.0  # seconds for an object that is uploaded in one piece
_CONNECTING = 15.0
_STALLED = 30.0  # seconds without any progress
_CHUNK = 1 << 16
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # RFC 9110 15: temporary failures


async def put(
    context: ssl.SSLContext, url: str, headers: list[tuple[str, str]], octets: bytes | AsyncIterator[bytes]
) -> None:
    """Upload octets.  An upload in pieces has no total time limit, as long as it makes progress.

    :raises TransferFailed: the server is not reached, or does not take them
    """
    async with (
        _errors_of(url),
        asyncio.timeout(_WHOLE if isinstance(octets, bytes) else _STALLED) as patience,
        _session(context, None, aiohttp.ClientTimeout(total=None, sock_connect=_CONNECTING)) as http,
        http.put(
            url,
            data=octets if isinstance(octets, bytes) else _rescheduling(patience, octets),
            headers=headers,
            allow_redirects=False,
        ) as response,
    ):
        _check_status(url, response, {200, 201, 204})


async def fetch(
    context: ssl.SSLContext, url: str, networks: frozenset[str] | None, whole: float | None
) -> AsyncGenerator[bytes, None]:
    """Fetch a URL piece by piece.

    :param networks: the kinds of networks that may be fetched from; None: any
    :param whole: time limit in seconds; None: no limit as long as there is progress
    :raises NotPermitted: its address is not one that may be fetched from
    :raises TransferFailed: it cannot be fetched; `temporary` says whether to try again
    """
    resolver = None if networks is None else _Resolver(networks)
    timing = aiohttp.ClientTimeout(total=whole, sock_connect=_CONNECTING, sock_read=_STALLED)
    async with (
        _errors_of(url),
        _session(context, resolver, timing) as http,
        http.get(url, headers={"Accept-Encoding": "identity"}, allow_redirects=False) as response,
    ):
        _check_status(url, response, {200})
        async for chunk in response.content.iter_chunked(_CHUNK):
            yield chunk


def _session(
    context: ssl.SSLContext, resolver: _Resolver | None, timing: aiohttp.ClientTimeout
) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        ssl=context,
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
        allowed = [each for each in found if network_of(each["host"]) in self.networks]
        if found and not allowed:
            raise NotPermitted(f"nothing is to be fetched from the address of {host}")
        return allowed

    def socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """Create the socket for one connection.  This checks the address of the connection, however it was resolved.

        :raises _Refused: the address is not one that may be fetched from
        """
        family, kind, protocol, _, address = info
        if network_of(str(address[0])) not in self.networks:
            raise _Refused("an address from which nothing is to be fetched")
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        await self._resolver.close()


def _check_status(url: str, response: aiohttp.ClientResponse, good: set[int]) -> None:
    if response.status not in good:
        raise TransferFailed(f"{host_of(url)} answered {response.status}", temporary=response.status in _PASSING)


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
            raise NotPermitted(f"nothing is to be fetched from the address of {host_of(url)}") from None
        reason = str(error) or type(error).__name__
        raise TransferFailed(f"{host_of(url)} cannot be reached: {reason}", temporary=True) from error
