"""Several ejabberd nodes that serve one domain together, as for a load above that of one machine.

The nodes share one SQL database (here a file that both have open).  It holds the data that must outlive a node:
accounts, rooms, archives, PubSub nodes.  Transient data (sessions, the node of each room) is in Mnesia, with a copy on
each node.  ``docs/cluster.md`` describes the same setup on real machines.

Nodes communicate by Erlang's distribution protocol.  Its name daemon, ``epmd``, would outlive us.  It is not needed if
all nodes listen on the same port of different addresses, of which loopback has many.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import trustme

from ..errors import DevServerError
from .base import own_address, reserve_port
from .ejabberd import Ejabberd

__all__ = ["EjabberdCluster"]

_JOIN_SECONDS = 180.0


class _Shared:
    """The settings that the nodes share."""

    def __init__(self, first: str) -> None:
        self.authority = trustme.CA()
        self.cookie = secrets.token_hex(16)
        with reserve_port(first) as reserved:  # nobody else looks for one on these addresses
            self.port = reserved.getsockname()[1]
        self.database: Path | None = None


class _Node(Ejabberd):
    """One ejabberd of a cluster.  It can be killed and started again like any other server."""

    def __init__(self, domain: str, shared: _Shared, **options: Any) -> None:
        super().__init__(domain, **options)
        self._authority = shared.authority
        self._shared = shared

    @property
    def name(self) -> str:
        """The name of the Erlang node."""
        return f"ejabberd@{self.host}"

    @property
    def _database(self) -> Path:
        if self._shared.database is None:
            self._shared.database = super()._database
        return self._shared.database

    def _configure(self) -> None:
        super()._configure()
        cookie = self.directory / ".erlang.cookie"  # HOME is this folder; command lines are public
        cookie.touch(mode=0o600)
        cookie.write_text(self._shared.cookie)
        cookie.chmod(0o400)

    def _distribution(self, name: str) -> list[str]:
        return ["-name", name, "-start_epmd", "false", "-erl_epmd_port", str(self._shared.port)]

    def _command(self) -> Sequence[str]:
        command = list(super()._command())
        listen = "{" + self.host.replace(".", ",") + "}"
        command[1:1] = [*self._distribution(self.name), "-kernel", "inet_dist_use_interface", listen]
        return command

    async def join(self, other: _Node) -> None:
        """Become a node of the other's cluster, as ``ejabberdctl join_cluster`` does.

        :raises DevServerError: ejabberd refuses
        """
        await self._ctl("join_cluster", other.name)
        async with asyncio.timeout(_JOIN_SECONDS):
            while not await self._greets():  # noqa: ASYNC110  # it has restarted itself
                await asyncio.sleep(0.05)

    async def running_nodes(self) -> list[str]:
        """The names of the cluster's running nodes, as this node sees them."""
        return sorted(line.strip("'") for line in (await self._ctl("list_cluster")).split())

    async def _ctl(self, *words: str) -> str:
        command = [str(self._runtime / "erlexec"), *self._distribution("ctl@127.0.0.1"), "-dist_listen", "false"]
        command += ["-hidden", "-noinput", "-s", "ejabberd_ctl", "-extra", self.name, *words]
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            env=os.environ | self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_JOIN_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise DevServerError(f"ejabberd cannot {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout


class EjabberdCluster:
    """``async with EjabberdCluster() as cluster: ...``: nodes that run and have joined each other.

    :ivar nodes: ordinary servers; an account created on one exists on all
    """

    def __init__(self, domain: str = "cluster.example", *, size: int = 2, **options: Any) -> None:
        """:param options: as for :class:`Ejabberd`, for each node"""
        addresses = [own_address() for _ in range(size)]
        shared = _Shared(addresses[0])
        self.nodes = [_Node(domain, shared, host=address, **options) for address in addresses]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for node in self.nodes:
                await stack.enter_async_context(node)
                if node is not self.nodes[0]:
                    await node.join(self.nodes[0])
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()
