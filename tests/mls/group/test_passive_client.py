"""Official vectors: a client that joins by Welcome and follows every Commit (RFC 9420 12.4.2, 12.4.3.1)."""

from __future__ import annotations

from typing import Any, cast

import pytest

from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.group.staging import StagedCommit
from slixmpp_mls.mls.parameters import Parameters
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.key_package import KeyPackage
from slixmpp_mls.mls.structures.psk import ExternalPSK, ResumptionPSK
from slixmpp_mls.mls.structures.welcome import Welcome
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle
from tests.vectors import load

# Lifetimes in the vectors are of any length, and long over; one member may make all proposals of an epoch.
ANY_TIME = Parameters(lifetime_limit=2**64, clock_tolerance=2**64, member_proposal_limit=256)


def bundle_of(case: dict[str, Any]) -> KeyPackageBundle:
    suite = CipherSuite.get(case["cipher_suite"])
    package = MLSMessage.decode(bytes.fromhex(case["key_package"])).body
    assert isinstance(package, KeyPackage)
    bundle = KeyPackageBundle(
        package,
        suite.import_hpke_key(bytes.fromhex(case["init_priv"])),
        suite.import_hpke_key(bytes.fromhex(case["encryption_priv"])),
        suite.import_signature_key(bytes.fromhex(case["signature_priv"])),
    )
    assert bundle.init_key.public == package.init_key
    assert bundle.leaf_key.public == package.leaf_node.encryption_key
    assert bundle.signature_key.public == package.leaf_node.signature_key
    return bundle


def follow(case: dict[str, Any]) -> int:
    """Join, then process every epoch of the case; the number of epochs followed."""
    bundle = bundle_of(case)
    known = {bytes.fromhex(psk["psk_id"]): bytes.fromhex(psk["psk"]) for psk in case["external_psks"]}

    def psks(name: ExternalPSK | ResumptionPSK) -> bytes | None:
        return known.get(name.psk_id) if isinstance(name, ExternalPSK) else None

    now = 0
    welcome = MLSMessage.decode(bytes.fromhex(case["welcome"])).body
    assert isinstance(welcome, Welcome)
    tree = bytes.fromhex(case["ratchet_tree"]) if case["ratchet_tree"] else None
    group = cast(Group, Group.join(welcome, bundle, tree=tree, psks=psks, parameters=ANY_TIME).state)
    assert group.epoch_authenticator.hex() == case["initial_epoch_authenticator"]
    for epoch in case["epochs"]:
        for proposal in epoch["proposals"]:
            group = group.apply(group.process(bytes.fromhex(proposal), now=now, psks=psks), now=now)
        staged = group.process(bytes.fromhex(epoch["commit"]), now=now, psks=psks)
        assert isinstance(staged, StagedCommit)
        before = group
        group = group.apply(staged, now=now)
        assert before.epoch + 1 == group.epoch
        assert group.epoch_authenticator.hex() == epoch["epoch_authenticator"]
        # what the store keeps is the whole state
        kept = {**before.pieces()}
        for name, value in group.changes_since(before).items():
            if value is None:
                kept.pop(name, None)
            else:
                kept[name] = value
        assert kept == group.pieces()
        group = Group.restore(kept.items(), ANY_TIME)
    return len(case["epochs"])


@pytest.mark.parametrize("number", range(56))
def test_welcome(number: int) -> None:
    follow(load("passive-client-welcome")[number])


@pytest.mark.parametrize("number", range(91))
def test_handling_commit(number: int) -> None:
    assert follow(load("passive-client-handling-commit")[number]) == 2


@pytest.mark.slow
def test_random() -> None:
    (case,) = load("passive-client-random")
    assert follow(case) == 200


def test_every_case_is_run() -> None:
    assert [len(load(f"passive-client-{name}")) for name in ("welcome", "handling-commit", "random")] == [56, 91, 1]
