"""Says again what is said in the encrypted rooms that it is in.

    python echo_bot.py --jid echo@example.org

Whoever is in a room (slixmpp-mls chat, for instance) adds the bot's account. The bot follows the invitation
by itself, and takes up its rooms when it is started again: what was said meanwhile gets its echo then.
"""

from __future__ import annotations

import asyncio

from login import client, options, stay_connected

from slixmpp_mls import EncryptedMessage


async def echo(message: EncryptedMessage) -> None:
    """Answer in the group that the message came from.  Our own messages do not come here: no echo of an echo."""
    if message.body:  # a reaction, for instance, has none
        await message.reply(f"{message.sender.account} said: {message.body}")


async def main() -> None:
    """Connect, and stay."""
    given = options(__doc__).parse_args()
    xmpp = client(given)
    xmpp.add_event_handler("mls_message", echo)
    stay_connected(xmpp, given)
    mls = xmpp.plugin["mls"]
    await mls.ready()  # our keys are published: from now on, people can add us
    print(f"{given.jid} is ready, fingerprint {mls.fingerprint}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
