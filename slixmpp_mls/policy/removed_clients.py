"""Who has been removed from a group and does not come back by itself: an extension of its GroupContext.

A voucher outlives a removal, and so does the wish to come in where anybody may.  So the group remembers whom it has
removed.  The list is in the GroupContext: all members agree on it, and a joiner can verify it.

- A Commit that removes a client against its will puts the client on the list.  Leaving does not, and neither does the
  removal of a leaf that its own client replaces.
- An Add by somebody with `may_add` takes the client off.  An Add by another device of its account takes it off if it
  was the account itself that had removed it.

The GroupContext changes only by a GroupContextExtensions proposal.  So whoever commits such a removal or Add includes
one that differs from the present extensions in the list alone, and needs no right for it; a Commit without it, or with
another list than the one that follows from its changes, is void (:mod:`.check`).

A group without the list (one of version 0.1) remembers nobody.  There no voucher counts, and nobody comes in as a
newcomer.  Any Commit may begin the list, and none can end it.

*Bounds.*  An account has at most `MAX_PER_ACCOUNT` entries; one more, and a single entry for all devices of the account
takes their place.  The list has at most `MAX_REMOVED` entries; one more, and the oldest goes: newcomers first, who
alone could come in any number, then devices that their own accounts have removed, then others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import IntEnum
from typing import Annotated, ClassVar

from ..identity import ClientIdentity
from ..mls.structures.extensions import Extension, ExtensionContent, Extensions
from ..mls.tls import Enum, Struct, opaque, struct
from ..stanza.code_points import REMOVED_CLIENTS
from .codecs import BARE_JID, Bounded

__all__ = ["MAX_PER_ACCOUNT", "MAX_REMOVED", "RemovedAs", "RemovedClient", "RemovedClients"]

MAX_REMOVED = 128
MAX_PER_ACCOUNT = 8


class RemovedAs(IntEnum):
    """What kind of removal it was; the higher number counts if there were several."""

    NEWCOMER = 1
    """It had let itself in, and nobody had confirmed it."""
    OWN_DEVICE = 2
    """Its own account has removed it."""
    MEMBER = 3
    """Others have."""


@struct
class RemovedClient(Struct):
    """One entry.

    :ivar device: device id in ASCII; empty: all devices of the account
    """

    account: Annotated[str, BARE_JID]
    device: opaque
    removed_as: Annotated[RemovedAs, Enum(RemovedAs)]

    def concerns(self, client: ClientIdentity) -> bool:
        return self.account == client.account and self.device in (b"", client.device.encode())


@struct
class RemovedClients(ExtensionContent):
    """The list, the oldest entry first."""

    TYPE: ClassVar[int] = REMOVED_CLIENTS
    clients: Annotated[tuple[RemovedClient, ...], Bounded(RemovedClient.codec, 0, MAX_REMOVED)] = ()

    def replaced_in(self, extensions: Extensions) -> tuple[Extension, ...]:
        """Extensions with this list instead of the one in them, in its place."""
        if not any(entry.extension_type == self.TYPE for entry in extensions):
            return (*extensions, self.extension())
        return tuple(self.extension() if entry.extension_type == self.TYPE else entry for entry in extensions)

    def bars(self, client: ClientIdentity) -> bool:
        """Whether this client does not come in by a voucher."""
        return any(entry.concerns(client) for entry in self.clients)

    def bars_own_add(self, client: ClientIdentity) -> bool:
        """Whether an Add by another device of its account does not bring this client back."""
        return any(entry.concerns(client) and entry.removed_as != RemovedAs.OWN_DEVICE for entry in self.clients)

    def bars_account(self, account: str) -> bool:
        """Whether this account does not come in by itself where anybody may."""
        return any(entry.account == account and entry.removed_as != RemovedAs.OWN_DEVICE for entry in self.clients)

    def with_removed(self, removals: Iterable[tuple[ClientIdentity, RemovedAs]]) -> RemovedClients:
        """The list after removals, in their order."""
        entries = list(self.clients)
        for client, removed_as in removals:
            known = next((entry for entry in entries if entry.concerns(client)), None)
            if known is not None:
                if removed_as > known.removed_as:
                    entries[entries.index(known)] = replace(known, removed_as=removed_as)
                continue
            entries.append(RemovedClient(client.account, client.device.encode(), removed_as))
            own = [entry for entry in entries if entry.account == client.account]
            if len(own) > MAX_PER_ACCOUNT:
                entries = [entry for entry in entries if entry.account != client.account]
                entries.append(RemovedClient(client.account, b"", max(entry.removed_as for entry in own)))
            if len(entries) > MAX_REMOVED:
                entries.remove(min(entries, key=lambda entry: entry.removed_as))  # of several, the oldest
        return RemovedClients(tuple(entries))

    def with_added(self, client: ClientIdentity) -> RemovedClients:
        """The list after an Add that counts in spite of it.

        An entry for all devices of the account stays, as one that only their vouchers are barred by: which of them
        was meant is not known any more.
        """
        entries = []
        for entry in self.clients:
            if not entry.concerns(client):
                entries.append(entry)
            elif not entry.device:
                entries.append(replace(entry, removed_as=RemovedAs.OWN_DEVICE))
        return RemovedClients(tuple(entries))
