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
the account replaces them.  The list has at most `MAX_REMOVED` entries.  Whoever may add and remove could fill it with
made-up accounts, so that a stolen device comes back by its old voucher; but no voucher of an account without a client
in the group is valid.  Therefore the entries of accounts that are in the group, or are administrators
(:class:`Standing`), and those of absent accounts do not displace each other: each part may have half of the list.

- If the absent accounts have more than half, one of their entries is dropped.  Newcomers' entries go first, because
  only newcomers can arrive in any number; then those of devices removed by their own accounts; then others.  Among
  entries of one kind the oldest goes.
- Otherwise the entries of the account with the most of them are replaced by a single one for all its devices, which
  bars no fewer clients: first of members, then of administrators.  If each account has only one entry, a member's is
  dropped, by its kind and age.  To displace a member's entry, somebody needs 64 accounts that are in the group at the
  same time.  Nobody displaces an administrator's entry, since a policy names at most 64 of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import IntEnum
from typing import Annotated, ClassVar

from ..identity import ClientIdentity
from ..mls.structures.extensions import Extension, ExtensionContent, Extensions
from ..mls.tls import Enum, Struct, opaque, struct
from ..stanza.code_points import REMOVED_CLIENTS
from .codecs import BARE_JID, Bounded

__all__ = ["MAX_PER_ACCOUNT", "MAX_REMOVED", "RemovedAs", "RemovedClient", "RemovedClients", "Standing"]

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


class Standing(IntEnum):
    """The standing of an account in a group, by which its entries are kept if the list is full."""

    ABSENT = 0
    """It has no confirmed client in the group, and no say."""
    MEMBER = 1
    """It has a confirmed client in the group."""
    ADMINISTRATOR = 2
    """The policy names it as an administrator."""


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

    def with_removed(
        self,
        removals: Iterable[tuple[ClientIdentity, RemovedAs]],
        standing: Callable[[str], Standing] = lambda account: Standing.ABSENT,
    ) -> RemovedClients:
        """The list after these removals, which are applied in their order.

        :param standing: the standing of an account after the Commit
        """
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
                entries = _as_one(entries, client.account)
        return RemovedClients(tuple(_bounded(entries, standing)))

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


def _as_one(entries: list[RemovedClient], account: str) -> list[RemovedClient]:
    """The entries with a single one, at the end, for all devices of an account."""
    kind = max(entry.removed_as for entry in entries if entry.account == account)
    return [*(entry for entry in entries if entry.account != account), RemovedClient(account, b"", kind)]


def _bounded(entries: list[RemovedClient], standing: Callable[[str], Standing]) -> list[RemovedClient]:
    """At most `MAX_REMOVED` of the entries; see the module."""
    excess = len(entries) - MAX_REMOVED
    if excess <= 0:
        return entries
    of = {account: standing(account) for account in {entry.account for entry in entries}}
    absent = [position for position, entry in enumerate(entries) if of[entry.account] is Standing.ABSENT]
    too_many = max(0, min(excess, len(absent) - MAX_REMOVED // 2))
    absent.sort(key=lambda position: entries[position].removed_as)  # of one kind, the oldest first
    dropped = set(absent[:too_many])
    entries = [entry for position, entry in enumerate(entries) if position not in dropped]
    while len(entries) > MAX_REMOVED:
        present = [entry for entry in entries if of[entry.account] is not Standing.ABSENT]
        counted = Counter(entry.account for entry in present)
        several = [account for account, count in counted.items() if count > 1]
        if several:
            lowest = min(of[account] for account in several)
            # of several with as many, the one with the oldest entry
            account = max((each for each in several if of[each] is lowest), key=counted.__getitem__)
            entries = _as_one(entries, account)
        else:
            entries.remove(min(present, key=lambda entry: (of[entry.account], entry.removed_as)))
    return entries
