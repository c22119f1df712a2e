"""The plugin of a client, with its type: slixmpp's own table knows only slixmpp's plugins."""

from __future__ import annotations

from typing import Any, cast

from slixmpp import ClientXMPP

from slixmpp_mls.plugin import MLS


def mls_of(client: ClientXMPP) -> MLS:
    plugin = cast(Any, client.plugin)["mls"]
    assert isinstance(plugin, MLS)
    return plugin


def disable_mls(client: ClientXMPP) -> None:
    """As at the end of a program."""
    cast(Any, client.plugin).disable("mls")
