"""Repeats each message of its encrypted rooms.

    python echo_bot.py --jid echo@example.org

A member of a room (slixmpp-mls chat, for instance) adds the bot's account. The bot accepts the invitation
automatically, and enters its rooms again when it is restarted: it then echoes the messages that it missed.
"""

from __future__ import annotations

from login import load, options

from slixmpp_mls import MLS, EncryptedMessage, run


async def echo(message: EncryptedMessage) -> None:
    """Answer in the group that the message came from.  Our own messages do not come here: no echo of an echo.

    Those of another device of our account do: this bot may run on two hosts.
    """
    if message.body and not message.own:  # a reaction, for instance, has no body
        await message.reply(f"{message.sender.account} said: {message.body}")


def ready(mls: MLS) -> None:
    """Our keys are published: from now on, people can add us."""
    print(f"{mls.xmpp.boundjid.bare} is ready, fingerprint {mls.fingerprint}", flush=True)


if __name__ == "__main__":
    bot = load(options(__doc__, "echo.db")).bot()
    bot.add_event_handler("mls_message", echo)
    bot.add_event_handler("mls_ready", ready)
    run(bot)
