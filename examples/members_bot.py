"""Tells, when asked with !members, who is in an encrypted room and what the fingerprints of their keys are.

    python members_bot.py --jid porter@example.org

Compare what it says with what the others' clients show (/members in slixmpp-mls chat). The list comes from
the group itself, where the server cannot change it; the room's own list of occupants may say something else.
"""

from __future__ import annotations

from datetime import UTC, datetime

from login import load, options

from slixmpp_mls import MLS, EncryptedMessage, EncryptedRoom, run


async def answer(message: EncryptedMessage) -> None:
    """Any member of the group may ask: only members can write a message that gets here."""
    if message.body.strip() == "!members" and not message.own:
        await message.reply(describe(message.room))


def describe(room: EncryptedRoom) -> str:
    """One paragraph for each device: an account may have several in the group."""
    lines = [f"{len(room.members)} devices of {len(room.accounts)} people, epoch {room.epoch}"]
    for member in room.members:
        since = "" if member.since is None else f" since {datetime.fromtimestamp(member.since, UTC):%Y-%m-%d %H:%M}Z"
        lines.append(f"{member.account}, device {member.device}{since}\n  {member.fingerprint}")
    return "\n".join(lines)


def ready(mls: MLS) -> None:
    """Our keys are published: from now on, people can add us."""
    print(f"{mls.xmpp.boundjid.bare} is ready, fingerprint {mls.fingerprint}", flush=True)


if __name__ == "__main__":
    bot = load(options(__doc__, "members.db")).bot()
    bot.add_event_handler("mls_message", answer)
    bot.add_event_handler("mls_ready", ready)
    run(bot)
