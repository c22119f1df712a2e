"""Attributes that disagree with the MLS bytes inside are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls import stanza
from slixmpp_mls.errors import InvalidError, MalformedError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.commit import Commit
from slixmpp_mls.mls.structures.credential import BasicCredential
from slixmpp_mls.mls.structures.framing import (
    ApplicationData,
    ContentType,
    FramedContent,
    MemberSender,
    MLSMessage,
    PrivateMessage,
    PublicMessage,
)
from slixmpp_mls.mls.structures.group_context import GroupContext
from slixmpp_mls.mls.structures.key_package import KeyPackage
from slixmpp_mls.mls.structures.leaf_node import Capabilities, KeyPackageSource, LeafNode, Lifetime
from slixmpp_mls.mls.structures.proposals import Remove
from slixmpp_mls.mls.structures.welcome import GroupInfo, Welcome
from slixmpp_mls.stanza.consistency import check

from .. import vectors

GROUP, EPOCH = b"coven", 7


def private(content_type: ContentType) -> bytes:
    return MLSMessage.wrap(PrivateMessage(GROUP, EPOCH, content_type, b"", b"sender data", b"ciphertext"))


def public(content: Any) -> bytes:
    tag = b"tag" if isinstance(content, Commit) else None
    framed = FramedContent(GROUP, EPOCH, MemberSender(0), b"", content)
    return MLSMessage.wrap(PublicMessage(framed, b"signature", tag, b"membership"))


LEAF = LeafNode(
    encryption_key=b"hpke",
    signature_key=b"key",
    credential=BasicCredential(b"a@example/1"),
    capabilities=Capabilities((1,), (1,)),
    source=KeyPackageSource(Lifetime(0, 1)),
    extensions=(),
    signature=b"signature",
)
KEY_PACKAGE = KeyPackage(1, 1, b"init", LEAF, (), b"signature")
REF = CipherSuite.get(1).key_package_ref(KEY_PACKAGE.encode()).hex()

PRIVATE = {kind: private(kind) for kind in ContentType}
PUBLIC = {
    ContentType.PROPOSAL: public(Remove(1)),
    ContentType.COMMIT: public(Commit((), None)),
    ContentType.APPLICATION: public(ApplicationData(b"in clear")),
}
WELCOME = MLSMessage.wrap(Welcome(1, (), b"encrypted"))
GROUP_INFO = MLSMessage.wrap(GroupInfo(GroupContext(1, 1, GROUP, EPOCH, b"", b"", ()), (), b"tag", 0, b"signature"))
PACKAGE = MLSMessage.wrap(KEY_PACKAGE)
KINDS = {
    stanza.Commit: {PRIVATE[ContentType.COMMIT], PUBLIC[ContentType.COMMIT]},
    stanza.Proposal: {PRIVATE[ContentType.PROPOSAL], PUBLIC[ContentType.PROPOSAL]},
    stanza.Application: {PRIVATE[ContentType.APPLICATION]},
    stanza.Welcome: {WELCOME},
    stanza.GroupInfo: {GROUP_INFO},
}
EVERYTHING = {*PRIVATE.values(), *PUBLIC.values(), WELCOME, GROUP_INFO, PACKAGE}


@pytest.mark.parametrize("kind", KINDS)
def test_each_element_takes_its_own_kinds_of_message_only_rfc9420_6(kind: Any) -> None:
    for data in EVERYTHING:
        element = kind(GROUP, EPOCH, data)
        if data in KINDS[kind]:
            assert check(element).encode() == data
        else:
            with pytest.raises(InvalidError):
                check(element)


def test_application_data_is_never_public_rfc9420_6() -> None:
    with pytest.raises(InvalidError, match="RFC 9420 6"):
        check(stanza.Application(GROUP, EPOCH, PUBLIC[ContentType.APPLICATION]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not stanza.Welcome])
@pytest.mark.parametrize("lie", [{"group": b"cove"}, {"group": b"coven "}, {"epoch": EPOCH - 1}, {"epoch": EPOCH + 1}])
def test_another_group_or_epoch_than_inside_is_refused(kind: Any, lie: dict[str, Any]) -> None:
    for data in KINDS[kind]:
        element = kind(GROUP, EPOCH, data)
        check(element)
        with pytest.raises(InvalidError, match=r"another (group|epoch)"):
            check(replace(element, **lie))


def test_key_package_attributes_are_compared_rfc9420_5_2() -> None:
    element = stanza.KeyPackage(REF, 1, PACKAGE)
    assert check(element).body == KEY_PACKAGE
    with pytest.raises(InvalidError, match="cipher suite"):
        check(replace(element, suite=2))
    with pytest.raises(InvalidError, match="reference"):
        check(replace(element, ref="00" * 32))
    for data in EVERYTHING - {PACKAGE}:
        with pytest.raises(InvalidError, match="another kind"):
            check(replace(element, data=data))


@pytest.mark.parametrize("data", [b"\x00", PRIVATE[ContentType.COMMIT][:-1], PRIVATE[ContentType.COMMIT] + b"\x00",
                                  b"\x00\x01\x00\x09"])  # fmt: skip
def test_bytes_that_are_no_mls_message_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        check(stanza.Commit(GROUP, EPOCH, data))


def test_another_protocol_version_is_refused_rfc9420_6() -> None:
    with pytest.raises(InvalidError, match="version 2"):
        check(stanza.Commit(GROUP, EPOCH, b"\x00\x02" + PRIVATE[ContentType.COMMIT][2:]))


def test_a_key_package_of_an_unknown_suite_is_refused_rfc9420_17_1() -> None:
    data = MLSMessage.wrap(replace(KEY_PACKAGE, cipher_suite=0x0FF0))
    with pytest.raises(InvalidError, match="not supported"):
        check(stanza.KeyPackage(REF, 0x0FF0, data))


def test_official_vectors_agree_with_themselves() -> None:
    case = next(case for case in vectors.load("message-protection") if case["cipher_suite"] == 1)
    place = bytes.fromhex(case["group_id"]), case["epoch"]
    kinds: dict[Any, list[str]] = {
        stanza.Commit: ["commit_priv", "commit_pub"],
        stanza.Proposal: ["proposal_priv", "proposal_pub"],
        stanza.Application: ["application_priv"],
    }
    for kind, names in kinds.items():
        for name in names:
            check(kind(*place, bytes.fromhex(case[name])))
    case = next(case for case in vectors.load("welcome") if case["cipher_suite"] == 1)
    check(stanza.Welcome(b"any", 1, bytes.fromhex(case["welcome"])))
    data = bytes.fromhex(case["key_package"])
    check(stanza.KeyPackage(CipherSuite.get(1).key_package_ref(data[4:]).hex(), 1, data))
