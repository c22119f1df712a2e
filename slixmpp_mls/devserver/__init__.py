"""Temporary XMPP servers for the demo, the tests and authors of bots.

::

    async with Prosody() as server:
        await server.register("alice", "secret")
        client = server.client("alice@prosody.example")
        client.register_plugin("mls", {"store": "alice.db"})
        await server.connect(client)
        ...

Everything is on loopback.  A new certificate authority issues the certificates, the ports are free ones, the data is in
a temporary folder, and no process is left behind.  The servers are stock software without the limits that obstruct
tests (rates, lifetime of archives).
"""

from __future__ import annotations

from ..errors import DevServerError
from .base import DevServer, Federation
from .cluster import EjabberdCluster
from .ejabberd import Ejabberd
from .line import Line
from .prosody import Prosody

__all__ = ["DevServer", "DevServerError", "Ejabberd", "EjabberdCluster", "Federation", "Line", "Prosody"]
