"""What tests do as people would on a machine that is busy: try again."""

from __future__ import annotations

import asyncio

from slixmpp_mls.rooms.encrypted_room import EncryptedRoom

_SECONDS = 120.0


async def add_all(room: EncryptedRoom, *accounts: str) -> None:
    """Add people, and those again whose server did not answer within ``key_packages.selection.PATIENCE``."""
    async with asyncio.timeout(_SECONDS):
        while failed := (await room.add(*accounts)).failed:
            assert all(reason.startswith("no answer within") for reason in failed.values()), failed
            accounts = tuple(failed)
