"""Posts lines to an encrypted room: those given as arguments, else those of standard input.

    python notify_bot.py --jid ci@example.org --room builds@rooms.example.org --add alice@example.org "Build 42 failed"
    tail -f errors.log | python notify_bot.py --room errors@rooms.example.org

The first run creates the room. Later ones find it in the store, with the keys.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator

from login import load, options
from slixmpp import JID, InvalidJID

from slixmpp_mls import MLS, EncryptedRoom, MLSError, StanzaTooLarge, StoreLocked, UsageError, connected

PATIENCE = 60  # seconds that one call waits for another one with the same store


async def main() -> None:
    """Connect, post, disconnect."""
    parser = options(__doc__, "notify.db")
    parser.add_argument("--room", required=True, help="the room's address")
    parser.add_argument("--add", action="append", default=[], metavar="JID", help="add this account to the room")
    parser.add_argument("line", nargs="*", help="what to post")
    given = parser.parse_args()
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            refused = await post(parser, given)
        except StoreLocked as error:  # two calls at once: one after the other
            if time.monotonic() > ends:
                sys.exit(f"notify_bot: {error}")
            await asyncio.sleep(1)
        except (MLSError, InvalidJID) as error:
            sys.exit(f"notify_bot: {error}")
        else:
            sys.exit(f"notify_bot: lines that were not posted: {refused}" if refused else 0)


async def post(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    """Post the lines, and count those that cannot be posted."""
    refused = 0
    bot = load(parser, given).bot()
    async with connected(bot):
        room = await find_room(MLS.of(bot), given)
        async for line in lines(given.line):
            try:
                # On the stream, or at least in the store: from here on, nothing is lost by a crash.
                sent = await room.send(line)
            except (UsageError, StanzaTooLarge) as error:  # this line has control characters, or is too long
                print(f"not posted: {line[:80]!r}: {error}", file=sys.stderr)
                refused += 1
                continue
            await sent.confirmed  # in the room's archive: everybody gets it, now or later
            print(f"posted: {line}", flush=True)
    return refused


async def find_room(mls: MLS, given: argparse.Namespace) -> EncryptedRoom:
    """The room, made if need be, with everybody in it who should be."""
    room = mls.rooms.get(JID(given.room).bare) or await mls.create(given.room)  # however it is typed
    missing = [account for account in given.add if JID(account).bare not in room.accounts]
    if missing:
        result = await room.add(*missing)
        for account, reason in result.failed.items():  # the others have been added all the same
            print(f"{account} could not be added: {reason}", file=sys.stderr)
    return room


async def lines(given: list[str]) -> AsyncIterator[str]:
    """What to post, empty lines left out."""
    for line in given:
        yield line
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # whatever its encoding
    while not given and (line := await asyncio.to_thread(sys.stdin.readline)):
        if line.strip():
            yield line.rstrip("\n")


if __name__ == "__main__":
    asyncio.run(main())
