"""The choice of a cipher suite, and what counts as an attempt to make it worse."""

from __future__ import annotations

import pytest

from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.key_packages.cipher_suite_choice import Negotiation, Offer, Offers, Suspicion, choose

from ..client.people import ALICE, BOB

A1, A2, B1 = ClientIdentity(ALICE, "a1"), ClientIdentity(ALICE, "a2"), ClientIdentity(BOB, "b1")


@pytest.mark.parametrize(
    ("supported", "preference", "best"),
    [
        ({}, (3, 1), 3),
        ({A1: (1, 2, 3), B1: (1, 2)}, (1, 2, 3), 1),
        ({A1: (1, 2, 3), B1: (1, 2)}, (3, 2, 1), 2),  # the first that every device has
        ({A1: (1, 2), A2: (1,), B1: (2, 1)}, (2, 1), 1),
        ({A1: (2,), A2: (1,), B1: (1, 2)}, (2, 1), 2),  # every account has a device with it
        ({A1: (2,), A2: (1,), B1: (1, 2)}, (1, 2), 1),
        ({A1: (2,), A2: (), B1: (2,)}, (1, 2), 2),
        ({A1: (1,), B1: (2,)}, (2, 1), 2),  # as many accounts for each: the preferred one
        ({A1: (1,), A2: (1,), B1: (2,)}, (3, 2, 1), 2),  # accounts count, not devices
        ({A1: (), B1: ()}, (3, 1), 3),
    ],
)
def test_the_best_suite(
    supported: dict[ClientIdentity, tuple[int, ...]], preference: tuple[int, ...], best: int
) -> None:
    assert choose(supported, preference) == best


def test_what_is_suspicious() -> None:
    offers = Offers({A1: Offer({1: None}, {1, 2}, {}), B1: Offer({}, {2}, {2: "another key"}), A2: Offer()})  # type: ignore[dict-item]
    assert offers.suspicions() == (
        Suspicion(str(A1), 2, "it has no KeyPackage for it"), Suspicion(str(B1), 2, "another key"),
    )  # fmt: skip


def test_only_what_has_made_a_difference_is_a_downgrade() -> None:
    hidden = (Suspicion(str(A1), 2, ""), Suspicion(str(B1), 3, ""))
    assert Negotiation(1, 2, {}, {}, hidden).downgraded == hidden[:1]
    assert Negotiation(1, 1, {}, {}, hidden).downgraded == ()
