"""slixmpp-omemo in a room, as its users have it: keys in memory, trust on first use, one message for all devices."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, cast

from omemo import JSONType, Just, Maybe, Nothing, Storage
from slixmpp import JID, ClientXMPP
from slixmpp.plugins import register_plugin
from slixmpp.stanza import Message
from slixmpp_omemo import XEP_0384

__all__ = ["Omemo"]


class _Memory(Storage):
    """A client's keys."""

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, JSONType] = {}

    async def _load(self, key: str) -> Maybe[JSONType]:
        return Just(self._values[key]) if key in self._values else Nothing()

    async def _store(self, key: str, value: JSONType) -> None:
        self._values[key] = value

    async def _delete(self, key: str) -> None:
        self._values.pop(key, None)


class _OMEMO(XEP_0384):
    default_config = {"fallback_message": "This message is encrypted by OMEMO."}  # slixmpp's way

    def plugin_init(self) -> None:
        self._memory = _Memory()
        super().plugin_init()

    @property
    def storage(self) -> Storage:
        return self._memory

    @property
    def _btbv_enabled(self) -> bool:
        return True

    async def _devices_blindly_trusted(self, blindly_trusted: Any, identifier: str | None) -> None: ...

    async def _prompt_manual_trust(self, manually_trusted: Any, identifier: str | None) -> None:
        raise RuntimeError("nobody here has verified a key")


register_plugin(_OMEMO)


class Omemo:
    """The plugin of one client."""

    def __init__(self, xmpp: ClientXMPP) -> None:
        xmpp.register_plugin("xep_0384", module=sys.modules[__name__])
        self._plugin: Any = cast(Any, xmpp.plugin)["xep_0384"]
        self._order = asyncio.Lock()  # its sessions are read, changed and stored with waiting in between

    async def ready(self) -> None:
        """Wait until our keys are published."""
        await self._plugin.get_session_manager()

    async def encrypt(self, message: Message, accounts: list[str]) -> Message:
        """The message for all devices of these accounts.

        :raises RuntimeError: it is not for all of them
        """
        async with self._order:
            encrypted, errors = await self._plugin.encrypt_message(message, {JID(account) for account in accounts})
        if encrypted is None or errors:
            raise RuntimeError(f"OMEMO: {errors}")
        assert isinstance(encrypted, Message)
        return encrypted

    async def decrypt(self, message: Message) -> str | None:
        """The text of a message; None if it is not encrypted."""
        if not self._plugin.is_encrypted(message):
            return None
        async with self._order:
            decrypted, _ = await self._plugin.decrypt_message(message)
        return str(decrypted["body"])
