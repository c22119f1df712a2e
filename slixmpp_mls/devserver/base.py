"""The common base of the temporary servers: a folder, certificates, ports, one process, clients.

A server is a plain process, started with :class:`subprocess.Popen` and awaited by polling.  Its object belongs to no
event loop: a test session may start it in one loop and use it from others.

No process outlives its owner.  The server runs in a session (and process group) of its own, together with a watchdog
that waits for the end of a pipe that we hold.  When we close the pipe, crash or are killed, the watchdog kills the
group.

The module is longer than others because the life of one process, from its ports to its end, is one class.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, Self, TypeVar, overload

import trustme
from slixmpp import JID, ClientXMPP

from ..errors import DevServerError
from .line import Line
from .packages import ReportDownload, quiet

Client = TypeVar("Client", bound=ClientXMPP)

#: Largest stanzas accepted from clients and from other servers, in octets.  The first must be the smaller one:
#: otherwise a room forwards stanzas that a remote server refuses, and all members of that server are kicked.
C2S_STANZA_LIMIT = 256 * 1024
S2S_STANZA_LIMIT = 512 * 1024

S2S_PORT = 5269  # the well-known port: without SRV records, a peer cannot learn another one
_STREAMS = "http://etherx.jabber.org/streams"
ADMIN_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # not on every user's PATH
START_SECONDS = 120.0
STOP_SECONDS = 30.0

# The shell becomes the server; its child is the watchdog.  Descriptor 3 is the pipe's end.
_WATCHED = 'exec 3<&0 </dev/null; (cat <&3 >/dev/null 2>&1; kill -9 0) & exec "$@" 3<&-'


class Federation:
    """Servers that know each other: one certificate authority and one file of host names for all.

    Name all domains first, since servers read the file at their start.  Then pass the federation to each server::

        federation = Federation("alpha.example", "beta.example")
        async with Prosody("alpha.example", federation=federation) as alpha, ...

    Every server gets a loopback address of its own (``127.…``), since all must listen on port 5269.  No name
    server is queried.
    """

    def __init__(self, *domains: str) -> None:
        self.authority = trustme.CA()
        self.addresses = {domain: own_address() for domain in domains}
        self._folder = tempfile.TemporaryDirectory(prefix="slixmpp-mls-federation-", ignore_cleanup_errors=True)
        self.hosts_file = Path(self._folder.name) / "hosts"
        self._publish(self.addresses)

    def line(self) -> Line:
        """Connect the servers by a line that can be cut.  Call it before any of them is started."""
        public = {domain: own_address() for domain in self.addresses}
        self._publish(public)
        return Line({public[domain]: address for domain, address in self.addresses.items()}, S2S_PORT)

    def _publish(self, addresses: Mapping[str, str]) -> None:
        lines = [f"{address} {' '.join(host_names(domain))}\n" for domain, address in addresses.items()]
        self.hosts_file.write_text("".join(lines) + "127.0.0.1 localhost\n")


class DevServer(ABC):
    """A temporary XMPP server on loopback, with MUC, MAM, PEP, carbons, stream management and HTTP upload.

    Use it as ``async with Prosody() as server``, or call :meth:`start` and :meth:`close`.

    :ivar domain: the domain of the accounts.
    :ivar rooms: the domain of the MUC service.
    :ivar host: the loopback address it listens on.
    :ivar port: the port for clients (STARTTLS required).
    :ivar http_port: the port of the upload service (HTTPS).
    :ivar ca_file: certificate (PEM) of the authority that issued all its certificates; a client must trust it.
    :ivar directory: holds configuration, log and data.
    :ivar accounts: passwords of the registered accounts by bare JID.
    """

    #: The name of the software in its usual spelling.
    software: ClassVar[str]

    def __init__(
        self,
        domain: str = "",
        *,
        host: str = "127.0.0.1",
        directory: Path | None = None,
        federation: Federation | None = None,
        progress: ReportDownload = quiet,
        extra_config: str = "",
    ) -> None:
        """Prepare a server; write and start nothing yet.

        :param domain: default: the software's name under ``.example``.
        :param host: loopback address to listen on; in a federation, the federation sets it.
        :param directory: keeps all files, also after :meth:`close`; default: a temporary folder that it removes.  A
            server that finds those of an earlier one there is the same server: accounts, data, authority, and the ports
            if they are free.
        :param federation: the servers to connect to; default: this server connects to no other.
        :param progress: called during long steps, such as the download of the server.
        :param extra_config: text for the end of the configuration's global part, in the software's syntax.
        :raises DevServerError: the federation does not know the domain.
        """
        self.domain = domain or f"{self.software.lower()}.example"
        self.rooms = f"rooms.{self.domain}"
        self.federation = federation
        self.host = host
        if federation is not None:
            if self.domain not in federation.addresses:
                raise DevServerError(f"{self.domain} is none of the federation's domains")
            self.host = federation.addresses[self.domain]
        self.port = 0
        self.http_port = 0
        self.accounts: dict[str, str] = {}
        self._authority = federation.authority if federation else trustme.CA()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="slixmpp-mls-", ignore_cleanup_errors=True)
            directory = Path(self._temporary.name)
        self.directory = directory.absolute()
        self.ca_file = self.directory / "ca.crt"
        self._progress = progress
        self._extra_config = extra_config
        self._process: subprocess.Popen[bytes] | None = None
        self._reserved: list[socket.socket] = []
        self._ready = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.domain} at {self.host}:{self.port}{'' if self.running else ', stopped'}>"

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    # Life

    @property
    def running(self) -> bool:
        """Whether the server's process is running."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The id of the server's process, which leads a process group of its own.

        :raises DevServerError: it is not running.
        """
        if self._process is None or not self.running:
            raise DevServerError(f"{self.software} is not running")
        return self._process.pid

    async def start(self) -> None:
        """Start the server; return when clients can connect.  Do nothing if it is running.

        :raises DevServerError: the software is not available here, or does not start; the text ends with its log.
        """
        if self.running:
            return
        self._kill()  # remains of an earlier process that ended by itself
        await asyncio.to_thread(self._prepare)
        self._spawn(self._command(), self._environment())
        deadline = time.monotonic() + START_SECONDS
        ports = {self.http_port} | ({S2S_PORT} if self.federation else set())
        while ports or not await self._greets():
            if not self.running:
                raise DevServerError(f"{self.software} ended while starting:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                self._kill()
                raise DevServerError(f"{self.software} did not start in {START_SECONDS:.0f} s:\n{self._log_tail()}")
            ports = {port for port in ports if not _answers(self.host, port)}
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Stop the server in order (SIGTERM) and wait; data and ports are kept for :meth:`start`."""
        if self._process is None:
            return
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        self._kill()

    async def kill(self) -> None:
        """Stop the server with SIGKILL, like a power failure; data and ports are kept for :meth:`start`."""
        self._kill()

    async def restart(self) -> None:
        """Call :meth:`stop` and :meth:`start`."""
        await self.stop()
        await self.start()

    async def close(self) -> None:
        """Stop and, unless a directory was given, remove everything.  The object cannot be used afterwards."""
        await self.stop()
        self._release()
        if self._temporary is not None:
            self._temporary.cleanup()

    # Accounts and clients

    async def register(self, name: str, password: str) -> JID:
        """Create an account while the server runs, or set the password of an existing one.

        :param name: the local part.
        :returns: its bare JID.
        :raises DevServerError: the server refused.
        """
        jid = JID(f"{name}@{self.domain}")
        await self._register(jid.local, password)
        self.accounts[jid.bare] = password
        self._keep()
        return jid

    @overload
    def client(self, jid: JID | str, password: str = "") -> ClientXMPP: ...

    @overload
    def client(self, jid: JID | str, password: str = "", *, factory: Callable[[str, str], Client]) -> Client: ...

    def client(
        self, jid: JID | str, password: str = "", *, factory: Callable[[str, str], ClientXMPP] = ClientXMPP
    ) -> ClientXMPP:
        """Make a client for this server, not connected yet: add plugins and handlers, then :meth:`connect` it.

        It trusts this server's authority alone.

        :param jid: bare, or full to request a resource.
        :param password: default: as registered.
        :param factory: a subclass of ClientXMPP, or a function that makes a client from JID and password.
        """
        made = factory(str(jid), password or self.accounts[JID(jid).bare])
        made.ssl_context = self.ssl_context()
        # Otherwise slixmpp first tries a TLS handshake on the port, which expects XMPP first.
        made.enable_direct_tls = False
        made.enable_starttls = True
        made.enable_plaintext = False
        return made

    async def connect(self, client: ClientXMPP, *, presence: bool = True, limit: float = 120.0) -> None:
        """Connect a client; return when its session is established.

        :param presence: also send presence; without it, the server delivers no messages or PEP events to the client.
        :param limit: time limit in seconds.
        :raises DevServerError: refused, or no session in time.
        """
        outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def finish(problem: str) -> None:
            if not outcome.done():
                outcome.set_result(problem)

        handlers = {
            "session_start": lambda _: finish(""),
            "failed_all_auth": lambda _: finish("the server refused the password"),
            "ssl_invalid_chain": lambda error: finish(f"the server's certificate does not verify: {error}"),
        }
        for event, handler in handlers.items():
            client.add_event_handler(event, handler)
        try:
            client.connect(self.host, self.port)
            problem = await asyncio.wait_for(outcome, limit)
        except TimeoutError:
            problem = f"no session after {limit:g} s"
        finally:
            for event, handler in handlers.items():
                client.del_event_handler(event, handler)
        if problem:
            client.abort()
            client.cancel_connection_attempt()
            raise DevServerError(f"{client.boundjid.bare} cannot log in at {self!r}: {problem}")
        if presence:
            client.send_presence()

    def ssl_context(self) -> ssl.SSLContext:
        """Make an SSL context for clients of this server and its upload service; it trusts this authority and no other.

        slixmpp's ``upload_file`` accepts no context; its ``request_slot`` with aiohttp replaces it in a few lines.
        """
        return ssl.create_default_context(cafile=str(self.ca_file))

    # The server's data

    @abstractmethod
    def archive(self, room: JID | str) -> list[str]:
        """Read the room's archive from the server's disk: the XML of each stanza, oldest first."""

    def log_text(self) -> str:
        """Everything that the server has logged and printed so far."""
        paths = sorted((self.directory / "log").glob("*"))
        return "".join(path.read_text(errors="replace") for path in paths if path.is_file())

    def disk_text(self) -> str:
        """All data on the server's disk, to search it for data that must not be there.

        Databases appear as the text of their rows and as raw files (in which a row may be split over pages);
        everything else appears unchanged.  The log and the configuration are not included.
        """
        texts = []
        for path in sorted((self.directory / "data").rglob("*")):
            if not path.is_file():
                continue
            try:
                raw = path.read_bytes()
            except FileNotFoundError:  # the server goes on meanwhile
                continue
            texts.append(f"\n== {path.relative_to(self.directory)}\n")
            if raw.startswith(b"SQLite format 3\0"):
                with read_only(path) as database:
                    texts.append("\n".join(database.iterdump()))
            texts.append(raw.decode("utf-8", "replace"))
        return "".join(texts)

    # For the subclasses

    @abstractmethod
    def _install(self) -> None:
        """Find or fetch the software.  Blocks."""

    @abstractmethod
    def _configure(self) -> None:
        """Write the configuration.  Certificates, ports and folders exist already."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """The command that runs the server in the foreground."""

    @abstractmethod
    def _environment(self) -> Mapping[str, str]:
        """The environment variables to add for :meth:`_command`."""

    @abstractmethod
    async def _register(self, name: str, password: str) -> None: ...

    # Inside

    def _prepare(self) -> None:
        if self._ready:
            return
        self._install()
        for folder in ("data", "log", "tls"):
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        ports = self._take_up()
        self._certify()
        self._reserve(ports)
        self.port, self.http_port = (one.getsockname()[1] for one in self._reserved)
        self._configure()
        self._keep()
        self._ready = True

    def _reserve(self, ports: Sequence[int]) -> None:
        """Keep these ports, or two others if there are none, or somebody has one of them by now."""
        self._release()
        try:
            for port in ports or (0, 0):
                self._reserved.append(reserve_port(self.host, port))
        except (OSError, OverflowError):  # the latter for what is no port
            if not ports:
                raise
            self._reserve(())

    def _release(self) -> None:
        while self._reserved:
            self._reserved.pop().close()

    def _certify(self) -> None:
        """Issue the server's certificate, or keep that of an earlier start: some clients remember its key."""
        names = [self.directory / "tls" / name for name in ("server.crt", "server.key", "server.pem")]
        authority = self._authority.cert_pem.bytes()
        if all(path.exists() for path in names) and self.ca_file.exists() and self.ca_file.read_bytes() == authority:
            return
        # trustme's default, the year 3000, exceeds Erlang's timers.
        expiry = datetime.now(UTC) + timedelta(days=3650)
        leaf = self._authority.issue_cert(*host_names(self.domain), self.host, "localhost", not_after=expiry)
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        key = leaf.private_key_pem.bytes()
        for path, content in zip(names, (chain, key, chain + key), strict=True):
            path.touch(mode=0o600)
            path.write_bytes(content)
        self._authority.cert_pem.write_to_path(str(self.ca_file))  # last: it says that the others are there

    # What makes it the same server when it is started again in its folder

    @property
    def _kept(self) -> Path:
        return self.directory / "server.json"

    def _keep(self) -> None:
        if self._temporary is not None or self.federation is not None:
            return
        state = {
            "software": self.software,
            "domain": self.domain,
            "ports": [self.port, self.http_port],
            "accounts": self.accounts,
            "authority": self._authority.cert_pem.bytes().decode(),
            "authority_key": self._authority.private_key_pem.bytes().decode(),
        }
        new = self._kept.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(json.dumps(state, indent=1))
        new.replace(self._kept)

    def _take_up(self) -> list[int]:
        """Take up what an earlier server has left in the folder.

        :returns: its ports; none if there was no server
        :raises DevServerError: it was another server
        """
        if self._temporary is not None or self.federation is not None or not self._kept.exists():
            return []
        try:
            state = json.loads(self._kept.read_text())
            authority = trustme.CA.from_pem(state["authority"].encode(), state["authority_key"].encode())
            accounts = {str(jid): str(password) for jid, password in state["accounts"].items()}
            port, http_port = (int(each) for each in state["ports"])
            before = state["software"], state["domain"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DevServerError(f"{self._kept} does not describe a server: {error}") from None
        if before != (self.software, self.domain):
            raise DevServerError(f"{self.directory} has the files of {' at '.join(before)}: choose another folder")
        self._authority = authority
        self.accounts = accounts | self.accounts
        return [port, http_port]

    def _spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        with (self.directory / "log" / "console.log").open("ab") as console:
            self._process = subprocess.Popen(  # noqa: S603
                ["/bin/sh", "-c", _WATCHED, "sh", *command],
                cwd=self.directory,
                env=os.environ | environment,
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # also shields it from a terminal's Ctrl-C; the owner stops it in order
            )
        # This runs before the temporary folder is removed, which also happens at exit.
        atexit.register(self._kill)

    async def _greets(self) -> bool:
        """Whether it answers in XMPP: the port accepts connections before the server is ready."""
        header = f"<stream:stream to='{self.domain}' version='1.0' xmlns='jabber:client' xmlns:stream='{_STREAMS}'>"
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                try:
                    writer.write(header.encode())
                    await reader.readuntil(b"</stream:features>")
                    return True
                finally:
                    writer.close()
        return False

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        atexit.unregister(self._kill)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        process.stdin.close()

    def _log_tail(self) -> str:
        return "\n".join(self.log_text().splitlines()[-15:])


def host_names(domain: str) -> list[str]:
    """The domain and the domains of its services that may have a certificate and an address."""
    return [domain, *(f"{service}.{domain}" for service in ("rooms", "share", "pubsub"))]


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """Open an SQLite database that a running server may be writing."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
        yield database


def create_database(path: Path, script: str = "") -> None:
    """Create an SQLite database, unless it exists.  It can be read while its server writes (write-ahead log)."""
    if path.exists():
        return
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(script)


def find_program(name: str) -> Path | None:
    """Find a program on the PATH or in the folders of administrators' programs."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(ADMIN_FOLDERS))
    return Path(found) if found else None


def own_address() -> str:
    """A loopback address with a free server-to-server port."""
    if not sys.platform.startswith("linux"):
        raise DevServerError("federation needs loopback addresses besides 127.0.0.1, which only Linux has by itself")
    for _ in range(100):
        address = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.{random.randint(1, 254)}"  # noqa: S311
        if not _answers(address, S2S_PORT):
            return address
    raise DevServerError(f"port {S2S_PORT} is taken on all loopback addresses: does a server listen on 0.0.0.0?")


def reserve_port(host: str, port: int = 0) -> socket.socket:
    """Keep a port for a server that does not listen yet, or not at the moment.

    The socket is bound and never listens.  While it is open, the operating system gives its port to nobody else: not to
    another server that looks for a free one, nor to a connection.  A server that sets SO_REUSEADDR, as all here do, can
    listen there nevertheless.

    :param port: 0: a free one
    :raises OSError: the port is not free
    """
    one = socket.socket()
    try:
        if port:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((host, port))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # before, a reserved one would count as free
    except BaseException:
        one.close()
        raise
    return one


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False
