"""The list of clients that have been removed from a group and cannot rejoin on their own: a GroupContext extension.

The list prevents a removed client from rejoining by a voucher, which outlives the removal, or as a newcomer where
anybody may join.  Because it is in the GroupContext, all members agree on it and a joiner can verify it.

- A Commit that removes a client against its will adds the client to the list.  A Commit by which a client leaves, or
  replaces its own leaf, does not.
- An Add by an account with `may_add` deletes the client's entry.  An Add by another device of its account deletes the
  entry only if the account itself had removed the client.

Only a GroupContextExtensions proposal changes the GroupContext.  The committer of such a removal or Add therefore
includes a GroupContextExtensions proposal that differs from the present extensions in the list alone; it needs no
right for that.  A Commit without the proposal, or with any list other than the one that follows from its changes, is
invalid (:mod:`.check`).

A group of version 0.1 has no list.  In such a group no voucher is valid and no client joins as a newcomer.  Any Commit
may introduce the list, and no Commit can delete it.

*Bounds.*  An account has at most `MAX_PER_ACCOUNT` entries; when one more is added, a single entry for all devices of
the account replaces them.  The list has at most `MAX_REMOVED` entries; when one more is added, one is dropped.
Newcomers' entries are dropped first, because only newcomers can arrive in any number; then those of devices removed by
their own accounts; then others.  Among entries of one kind the oldest is dropped.
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
    """The kind of a removal.  After several removals of one client the highest number is kept."""

    NEWCOMER = 1
    """The client had joined as a newcomer and had not been confirmed."""
    OWN_DEVICE = 2
    """The client's own account removed it."""
    MEMBER = 3
    """Another account removed it."""


@struct
class RemovedClient(Struct):
    """One entry of the list.

    :ivar account: bare JID
    :ivar device: device id in ASCII; empty for all devices of the account
    :ivar removed_as: the kind of the removal
    """

    account: Annotated[str, BARE_JID]
    device: opaque
    removed_as: Annotated[RemovedAs, Enum(RemovedAs)]

    def concerns(self, client: ClientIdentity) -> bool:
        return self.account == client.account and self.device in (b"", client.device.encode())


@struct
class RemovedClients(ExtensionContent):
    """The list of removed clients, oldest entry first."""

    TYPE: ClassVar[int] = REMOVED_CLIENTS
    lasting: ClassVar[bool] = True
    clients: Annotated[tuple[RemovedClient, ...], Bounded(RemovedClient.codec, 0, MAX_REMOVED)] = ()

    def replaced_in(self, extensions: Extensions) -> tuple[Extension, ...]:
        """Extensions with this list in the place of the one that they contain, or at their end if they contain none."""
        if not any(entry.extension_type == self.TYPE for entry in extensions):
            return (*extensions, self.extension())
        return tuple(self.extension() if entry.extension_type == self.TYPE else entry for entry in extensions)

    def bars(self, client: ClientIdentity) -> bool:
        """Whether the list bars this client from joining by a voucher."""
        return any(entry.concerns(client) for entry in self.clients)

    def bars_own_add(self, client: ClientIdentity) -> bool:
        """Whether the list bars an Add of this client by another device of its account."""
        return any(entry.concerns(client) and entry.removed_as != RemovedAs.OWN_DEVICE for entry in self.clients)

    def bars_account(self, account: str) -> bool:
        """Whether the list bars this account's clients from joining as newcomers."""
        return any(entry.account == account and entry.removed_as != RemovedAs.OWN_DEVICE for entry in self.clients)

    def with_removed(self, removals: Iterable[tuple[ClientIdentity, RemovedAs]]) -> RemovedClients:
        """The list after these removals, which are applied in their order."""
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
        """The list after a permitted Add of this client.

        An entry for this device is deleted.  An entry for all devices of the account is kept, as `OWN_DEVICE`: it does
        not record which devices were removed, so it continues to bar the account's vouchers, and nothing else.
        """
        entries = []
        for entry in self.clients:
            if not entry.concerns(client):
                entries.append(entry)
            elif not entry.device:
                entries.append(replace(entry, removed_as=RemovedAs.OWN_DEVICE))
        return RemovedClients(tuple(entries))
