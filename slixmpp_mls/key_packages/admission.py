"""Decides whether an account's device may be added although only the account's server says that it is one.

An account's server can list any device, with keys of its own.  It is believed where there is nothing better: when we
first meet an account.  If the account has a device in the group already, that device can vouch for others
(:mod:`slixmpp_mls.policy.proofs`), and a new device without such a voucher is not added with its account.

=================  ================================================================================================
the account        its device is added
=================  ================================================================================================
our own            as the setting ``new_devices`` says; nothing is asked here
not in the group   on first use: the server's list is believed (`Unvouched.FIRST_USE`)
in the group       if it has a leaf there with the same key; with a voucher by a device that is in the group, valid
                   now, in the account's list or in the KeyPackage; or if the caller names the device
                   (`Unvouched.NAMED`)
=================  ================================================================================================

A device whose key a person has compared is added in any case.  A device that was removed from the group has no valid
voucher there; naming it adds it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum

from ..client import RoomGroup
from ..errors import PeerError
from ..identity import ClientIdentity
from ..mls.structures.leaf_node import LeafNode
from ..policy import DeviceVoucher, DeviceVouchers, vouches
from ..stanza import Device

__all__ = ["NOT_VOUCHED", "Unvouched", "admission"]

NOT_VOUCHED = (
    "a new device, but none of its account's devices in the group vouches for it; name it to add it all the same"
)


class Unvouched(StrEnum):
    """What holds of a device without a voucher."""

    FIRST_USE = "first-use"
    """Its account had no device in the group: the account's server is believed."""
    NAMED = "named"
    """The caller has named the device."""
    NEW_DEVICE = "new-device"
    """Its account has other devices in the group, and none of them vouches for it: it is not added."""


def admission(
    group: RoomGroup, client: ClientIdentity, leaf: LeafNode, listed: Device | None, now: int, *, named: bool
) -> Unvouched | None:
    """Judge a device of another account that has no voucher; None if it has one, or none is needed.

    :param leaf: of its KeyPackage
    :param listed: its entry in the account's list
    :param now: seconds since the Unix epoch
    :param named: whether the caller has named the device, not only its account
    """
    if client.account == group.device.identity.account or group.members.has_key(client, leaf.signature_key):
        return None
    if _is_vouched_for(group, client, leaf, listed, now):
        return None
    if not group.roster.has_say(client.account):
        return Unvouched.FIRST_USE
    return Unvouched.NAMED if named else Unvouched.NEW_DEVICE


def _is_vouched_for(group: RoomGroup, client: ClientIdentity, leaf: LeafNode, listed: Device | None, now: int) -> bool:
    view = group.room_state.require_member().view
    if not view.policy.own_devices or view.removed is None or view.removed.bars(client):
        return False
    suite, roster = view.suite, view.roster
    for voucher in _vouchers(leaf, listed, suite.signature_scheme):
        if not voucher.lifetime.not_before <= now <= voucher.lifetime.not_after:
            continue
        for index in roster.leaves_of(client.account):
            issuer = roster.at(index)
            if issuer != client and roster.counts(index) and voucher.issuer == str(issuer).encode():
                key = view.leaf(index).signature_key
                if vouches(suite, voucher, key, client, leaf.signature_key):
                    return True
    return False


def _vouchers(leaf: LeafNode, listed: Device | None, scheme: int) -> Iterator[DeviceVoucher]:
    with suppress(PeerError):
        found = DeviceVouchers.found_in(leaf.extensions)
        yield from () if found is None else found.vouchers
    for each in () if listed is None else listed.vouchers:
        if each.scheme == scheme:
            with suppress(PeerError):
                yield DeviceVoucher.decode(each.data)
