"""What fuzzing has found, each with a test of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slixmpp_mls.errors import InvalidError
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.welcome import GroupInfo, group_info_tbs
from tests.fuzz.groups import ALICE, BOB, DAVE, NOW, SUITE


def test_last_epoch_in_a_group_info_rfc9420_8_1() -> None:
    """A member signs a GroupInfo of epoch 2**64 - 1: there is none that an external Commit could begin."""
    info = MLSMessage.decode(BOB.group_info()).body
    assert isinstance(info, GroupInfo)
    info = replace(info, group_context=replace(info.group_context, epoch=2**64 - 1))
    info = replace(info, signature=SUITE.sign_with_label(BOB.signature_key, "GroupInfoTBS", group_info_tbs(info)))
    with pytest.raises(InvalidError, match=r"RFC 9420 8\.1"):
        Group.external_commit(info, DAVE.own_leaf, now=NOW)


def test_last_epoch_cannot_be_committed_rfc9420_8_1() -> None:
    """The epoch before the last one has Commits, the last one has none."""
    for epoch in (2**64 - 2, 2**64 - 1):
        alice, bob = (
            replace(one, public=replace(one.public, context=replace(one.context, epoch=epoch))) for one in (ALICE, BOB)
        )
        if epoch == 2**64 - 2:
            made = bob.commit(now=NOW)
            assert alice.apply(alice.process(made.commit, now=NOW), now=NOW).epoch == 2**64 - 1
        else:
            with pytest.raises(InvalidError, match=r"RFC 9420 8\.1"):
                bob.commit(now=NOW)
