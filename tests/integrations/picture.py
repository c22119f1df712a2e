"""The picture of poezio in the README: ``python -m tests.integrations.picture docs/poezio.svg``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from slixmpp_mls import EncryptedMessage, Login, connected
from slixmpp_mls.devserver import Prosody

from .poezio import first_command, poezio


async def echo(message: EncryptedMessage) -> None:
    """The bot of the README."""
    await message.reply(f"{message.sender.account} said: {message.body}")


async def draw(path: Path, folder: Path) -> None:
    """Run the scene on a temporary server, and save the screen."""
    async with Prosody() as server:
        alice, echoes = str(await server.register("alice", "a")), str(await server.register("echo", "e"))
        login = Login(jid=echoes, password="e", host=server.host, port=server.port, ca=server.ca_file,
                      store=folder / "echo.db")  # fmt: skip
        bot = login.bot(key_packages=5)
        bot.add_event_handler("mls_message", echo)
        async with connected(bot), poezio(server, alice, folder, width=100, height=24) as window:
            await window.shows("Authentication success")
            await first_command(window, f"message {echoes}")
            await window.shows(f"\\[{echoes}")
            await window.type("/mls")
            await window.shows("Encrypted from now on")
            await window.type("Fair is foul")
            await window.shows("said: Fair is foul")
            await window.type(f"/mls verify {echoes} {bot.plugin['mls'].fingerprint}")  # type: ignore[typeddict-item]
            await window.shows("is verified")
            await window.type("/mls reply and foul is fair")
            await window.shows("said: and foul is fair")
            await window.picture(path, "poezio")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(draw(Path(sys.argv[1]), Path(folder)))
