"""Throw-away XMPP servers for the demo, the tests and for those who write bots.

::

    async with Prosody() as server:
        await server.register("alice", "secret")
        client = server.client("alice@prosody.example")
        client.register_plugin("mls")
        await server.connect(client)
        ...

Everything is on loopback: certificates come from an authority made on the spot, ports are free ones,
data lies in a temporary folder, and no process is left behind.  The servers are stock software with
the limits lifted that get in the way of tests (rates, life time of archives).
"""

from __future__ import annotations

from ..errors import DevServerError
from .base import DevServer, Federation
from .cluster import EjabberdCluster
from .ejabberd import Ejabberd
from .line import Line
from .prosody import Prosody

__all__ = ["DevServer", "DevServerError", "Ejabberd", "EjabberdCluster", "Federation", "Line", "Prosody"]
