"""A real poezio in a real terminal."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import entry_points
from pathlib import Path

from slixmpp_mls.devserver import DevServer

from ..terminal import Terminal, needs, terminal

# poezio refuses to run for root, who runs the tests in a container.
_RUN = """
import os
real = os.geteuid
def somebody():
    os.geteuid = real
    return 1000
os.geteuid = somebody
from poezio.poezio import main
main()
"""


@asynccontextmanager
async def poezio(
    server: DevServer, jid: str, folder: Path, *, accept: str = "all", width: int = 120, height: int = 32
) -> AsyncIterator[Terminal]:
    """poezio with our plugin, logged in to an account; its files are in `folder`.

    :param jid: bare JID of an account of the server
    :param accept: whose invitations it follows
    """
    needs(importlib.util.find_spec("poezio"), "poezio (pip install 'slixmpp-mls[poezio]', with a compiler)")
    needs(entry_points(group="poezio_plugins", name="mls"), "our entry point: install this package again (make setup)")
    settings = folder / "poezio.cfg"
    plugins = folder / "plugins"
    plugins.mkdir(exist_ok=True)
    (plugins / "mls.cfg").write_text(f"[mls]\naccept = {accept}\ndownloads = {folder}\n")
    settings.write_text(
        f"[Poezio]\njid = {jid}\npassword = {server.accounts[jid]}\ncustom_host = {server.host}\n"
        f"custom_port = {server.port}\nca_cert_path = {server.ca_file}\nplugins_autoload = mls\n"
        f"plugins_conf_dir = {plugins}\nuse_log = false\nenable_avatars = false\ninformation_buffer_popup_on =\n"
        "synchronise_open_rooms = false\nlog_errors = true\n"
    )
    environment = {"XDG_DATA_HOME": str(folder / "data"), "XDG_CACHE_HOME": str(folder / "cache"),
                   "XDG_CONFIG_HOME": str(folder / "config"), "PYTHONPATH": str(Path(__file__).parents[2])}  # fmt: skip
    command = (sys.executable, "-c", _RUN, "-f", str(settings), "-d", str(folder / "debug.log"))
    async with terminal(*command, folder=folder, environment=environment, width=width, height=height) as window:
        yield window


async def first_command(window: Terminal, command: str) -> None:
    """A command in the tab of the roster, which has no input line before the slash."""
    await window.press("/")
    await window.shows(r"(?m)^ +\u2502/ *$")
    await window.type(command)
