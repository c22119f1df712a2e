"""What the patches beside this file are worth: a copy of the installed slixmpp without and with them, in turns."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

_HERE = Path(__file__).parent
_ROUNDS = 5
_PLUGINS = "30 45 59 60 85 115 163 184 198 199 203 249 280 297 308 313 334 359 380"
_TEXT = "A" * 970
_MESSAGE = (
    "<message xmlns='jabber:client' type='groupchat' from='room@rooms.example/nick' to='me@host.example/here' id='1'>"
    f"<application xmlns='urn:xmpp:mls:0' epoch='5' group='{'g' * 43}'>{_TEXT}</application>"
    "<origin-id xmlns='urn:xmpp:sid:0' id='1'/><store xmlns='urn:xmpp:hints'/>"
    "<stanza-id xmlns='urn:xmpp:sid:0' by='room@rooms.example' id='2'/></message>"
)


async def _measure() -> dict[str, float]:
    """Microseconds of each operation with the slixmpp that is imported."""
    from slixmpp import ClientXMPP
    from slixmpp.xmlstream.tostring import escape, tostring

    client = ClientXMPP("me@host.example/here", "secret")
    for number in _PLUGINS.split():
        client.register_plugin(f"xep_{int(number):04}")
    xml = ElementTree.fromstring(_MESSAGE)  # our own

    def best(call: Callable[[], object]) -> float:
        return min(timeit.repeat(call, number=100, repeat=9)) / 100 * 1e6

    return {
        "escape a text": best(lambda: escape(_TEXT)),
        "write the message": best(lambda: tostring(xml)),
        "match it against the handlers": best(lambda: client.recv_stanza(client._build_stanza(xml))),
    }


def main() -> None:
    """Print a table."""
    import slixmpp

    results: dict[str, list[dict[str, float]]] = {"without": [], "with": []}
    with TemporaryDirectory() as folder:
        for name in results:
            shutil.copytree(Path(slixmpp.__file__).parent, Path(folder) / name / "slixmpp")
        for patch in sorted(_HERE.glob("*.patch")):
            subprocess.run(["patch", "-sp1", "-i", patch], cwd=Path(folder) / "with", check=True)
        for _ in range(_ROUNDS):
            for name, measured in results.items():
                environment = {**os.environ, "PYTHONPATH": str(Path(folder) / name)}
                command = [sys.executable, __file__, "measure"]
                done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
                measured.append(json.loads(done.stdout))
    for operation in results["with"][0]:
        before, after = (min(each[operation] for each in results[name]) for name in ("without", "with"))
        sys.stdout.write(f"| {operation} | {before:.3g} us | {after:.3g} us | {after / before:.2f} |\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["measure"]:
        sys.stdout.write(json.dumps(asyncio.run(_measure())))
    else:
        main()
