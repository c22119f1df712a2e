"""What tests do as people would on a machine that is busy: try again."""

from __future__ import annotations

import asyncio

from slixmpp_mls.rooms.encrypted_room import EncryptedRoom

_SECONDS = 300.0


async def add_all(room: EncryptedRoom, *accounts: str) -> None:
    """Add people, and those again whose server did not answer within ``key_packages.selection.PATIENCE``.

    Accounts that are in the group already stay there.
    """
    left = list(accounts)
    async with asyncio.timeout(_SECONDS):
        while left:
            failed = (await room.add(*left)).failed
            left = [account for account in failed if account not in room.accounts]
            assert all(failed[account].startswith("no answer within") for account in left), failed
