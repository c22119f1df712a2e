"""Leaves and KeyPackages that must be accepted or refused (RFC 9420 7.2, 7.3, 10.1, 11.1, 13.4, 13.5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slixmpp_mls.errors import InvalidError, MalformedError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.registry import GREASE, CipherSuiteId, ExtensionType
from slixmpp_mls.mls.structures.credential import UnknownCredential, X509Credential
from slixmpp_mls.mls.structures.extensions import (
    AppDataDictionary,
    ApplicationId,
    ComponentData,
    Extension,
    ExternalSenders,
    RequiredCapabilities,
)
from slixmpp_mls.mls.structures.key_package import KeyPackage
from slixmpp_mls.mls.structures.leaf_node import Capabilities, CommitSource, KeyPackageSource, Lifetime, UpdateSource
from slixmpp_mls.mls.tree.leaf_validation import (
    GroupRequirements,
    LeafRules,
    check_leaf,
    check_members,
    check_proposal_supported,
)
from slixmpp_mls.mls.tree.tree_math import LeafIndex
from tests.mls.members import CAPABILITIES, DAY, NOW, Member, member, members, tree_of
from tests.tampering import tampered

SUITE = CipherSuite.get(1)
ANY = GroupRequirements(SUITE)
RULES = LeafRules(now=NOW)


def requiring(*extensions: Extension) -> GroupRequirements:
    return GroupRequirements.of(SUITE, 1, extensions)


def refused(person: Member, section: str, requirements: GroupRequirements = ANY, **fields: Any) -> None:
    """Its KeyPackage is, with these fields."""
    with pytest.raises(InvalidError) as caught:
        RULES.verify_key_package(person.key_package(**fields), requirements)
    assert caught.value.section == section


# --- KeyPackages ------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", CipherSuiteId)
def test_10_1_a_valid_key_package_of_every_suite(suite: int) -> None:
    package = member(0, suite).key_package()
    verified = RULES.verify_key_package(package, GroupRequirements(CipherSuite.get(suite)))
    assert verified.key_package is package
    assert verified.reference == CipherSuite.get(suite).key_package_ref(package.encode())
    assert not verified.last_resort


def test_10_1_version_and_cipher_suite() -> None:
    refused(member(0), "RFC 9420 10.1", cipher_suite=3)
    refused(member(0), "RFC 9420 10.1", version=2)


def test_10_1_init_key_differs_from_encryption_key() -> None:
    refused(member(0), "RFC 9420 10.1", init_key=member(0).leaf.encryption_key)


def test_10_1_signature() -> None:
    package = member(0).key_package()
    for changed in (
        replace(package, signature=tampered(package.signature)),
        replace(package, signature=b""),
        replace(package, init_key=member(1).init_key.public),
        replace(package, signature=member(1).key_package().signature),
    ):
        with pytest.raises(InvalidError) as caught:
            RULES.verify_key_package(changed, ANY)
        assert caught.value.section == "RFC 9420 5.1.2"


def test_7_3_signature_of_the_leaf_in_a_key_package() -> None:
    person = member(0)
    forged = replace(person, leaf=replace(person.leaf, signature=member(1).leaf.signature))
    refused(forged, "RFC 9420 5.1.2")  # the KeyPackage's own signature is right
    borrowed = replace(person, leaf=replace(member(1).leaf, signature_key=person.leaf.signature_key))
    refused(borrowed, "RFC 9420 5.1.2")


@pytest.mark.parametrize("source", [UpdateSource(), CommitSource(b"")])
def test_7_3_source_is_key_package(source: UpdateSource | CommitSource) -> None:
    refused(member(0, source=source), "RFC 9420 7.3")


def test_10_init_key_is_a_key() -> None:
    refused(member(0), "RFC 9420 5.1.1", init_key=bytes(32))
    refused(member(0), "RFC 9420 5.1.1", init_key=bytes(31))


def test_13_4_extension_twice() -> None:
    twice = (Extension(0xF000, b""), Extension(0xF000, b"other"))
    refused(member(0), "RFC 9420 13.4", extensions=twice)
    listed = replace(CAPABILITIES, extensions=(0xF000,))
    refused(member(0, capabilities=listed, extensions=twice), "RFC 9420 13.4")


def test_last_resort_in_the_form_of_earlier_drafts() -> None:
    """draft-ietf-mls-extensions-04 to -06: an extension of its own, which others send."""
    package = member(0).key_package(extensions=(Extension(ExtensionType.LAST_RESORT, b""),))
    assert RULES.verify_key_package(package, ANY).last_resort


def test_last_resort_as_a_component() -> None:
    """draft-ietf-mls-extensions, Last Resort KeyPackages and Associated Data."""
    mark, other = ComponentData(AppDataDictionary.LAST_RESORT, b""), ComponentData(0x8001, b"x")

    def package(*components: ComponentData) -> KeyPackage:
        return member(0).key_package(extensions=(AppDataDictionary(components).extension(),))

    assert AppDataDictionary((mark,)).encode() == bytes.fromhex("03000400")
    assert RULES.verify_key_package(package(mark, other), ANY).last_resort
    assert not RULES.verify_key_package(package(other), ANY).last_resort
    for wrong in ((other, mark), (mark, mark)):
        with pytest.raises(InvalidError, match="sorted"):
            RULES.verify_key_package(package(*wrong), ANY)
    garbage = member(0).key_package(extensions=(Extension(AppDataDictionary.TYPE, b"\x05"),))
    with pytest.raises(MalformedError):
        RULES.verify_key_package(garbage, ANY)


def test_many_at_once() -> None:
    packages = [person.key_package() for person in members(70)]
    assert [v.key_package for v in RULES.verify_key_packages(packages, ANY)] == packages
    packages[66] = replace(packages[66], signature=packages[65].signature)
    for threads in (1, 2):
        with pytest.raises(InvalidError):
            LeafRules(NOW, threads=threads).verify_key_packages(packages, ANY)


# --- lifetime ---------------------------------------------------------------------------------


def lasting(before: int, after: int) -> Member:
    return member(0, source=KeyPackageSource(Lifetime(before, after)))


def test_7_3_lifetime() -> None:
    refused(lasting(NOW - 2 * DAY, NOW - DAY), "RFC 9420 7.3")
    refused(lasting(NOW + DAY, NOW + 2 * DAY), "RFC 9420 7.3")
    refused(lasting(NOW + 1, NOW - 1), "RFC 9420 7.3")


def test_7_3_lifetime_allows_for_clocks() -> None:
    for before, after in ((NOW + 3600, NOW + DAY), (NOW - DAY, NOW - 3600)):
        package = lasting(before, after).key_package()
        RULES.verify_key_package(package, ANY)
        with pytest.raises(InvalidError):
            LeafRules(NOW, clock_tolerance=3599).verify_key_package(package, ANY)


def test_7_2_lifetime_is_limited() -> None:
    RULES.verify_key_package(lasting(NOW, NOW + 90 * DAY).key_package(), ANY)
    refused(lasting(NOW, NOW + 90 * DAY + 1), "RFC 9420 7.2")
    refused(lasting(0, 2**64 - 1), "RFC 9420 7.2")
    LeafRules(NOW, lifetime_limit=2**64).verify_key_package(lasting(0, 2**64 - 1).key_package(), ANY)


# --- capabilities -----------------------------------------------------------------------------


def able(**lists: tuple[int, ...]) -> Member:
    return member(0, capabilities=replace(CAPABILITIES, **lists))


def test_7_2_version_and_suite_are_listed() -> None:
    refused(able(versions=()), "RFC 9420 7.2")
    refused(able(cipher_suites=(2, 3)), "RFC 9420 7.2")


def test_7_2_own_credential_type_is_listed() -> None:
    refused(able(credentials=()), "RFC 9420 7.2")
    refused(able(credentials=(2,)), "RFC 9420 7.2")


def test_7_3_own_extensions_are_listed() -> None:
    extension = Extension(0xF000, b"x")
    refused(member(0, extensions=(extension,)), "RFC 9420 7.3")
    listed = replace(CAPABILITIES, extensions=(0xF000,))
    RULES.verify_key_package(member(0, extensions=(extension,), capabilities=listed).key_package(), ANY)


def test_7_2_default_extensions_need_no_listing() -> None:
    person = member(0, extensions=(ApplicationId(b"id").extension(),))
    RULES.verify_key_package(person.key_package(), ANY)
    requirements = requiring(ExternalSenders(()).extension(), RequiredCapabilities().extension())
    RULES.verify_key_package(person.key_package(), requirements)


def test_13_4_malformed_application_id() -> None:
    person = member(0, extensions=(Extension(ExtensionType.APPLICATION_ID, b"\x01ab"),))
    with pytest.raises(MalformedError):
        RULES.verify_key_package(person.key_package(), ANY)


@pytest.mark.parametrize(
    ("required", "supported"),
    [
        (RequiredCapabilities(extension_types=(0xF000,)), {"extensions": (0xF000,)}),
        (RequiredCapabilities(proposal_types=(0xF000,)), {"proposals": (0xF000,)}),
        (RequiredCapabilities(credential_types=(2,)), {"credentials": (1, 2)}),
    ],
)
def test_7_3_required_capabilities(required: RequiredCapabilities, supported: dict[str, tuple[int, ...]]) -> None:
    requirements = requiring(required.extension())
    with pytest.raises(InvalidError, match=r"7\.3"):
        RULES.verify_key_package(member(0).key_package(), requirements)
    RULES.verify_key_package(able(**supported).key_package(), requirements)


def test_11_1_default_types_are_always_supported() -> None:
    required = RequiredCapabilities(extension_types=(1, 2, 3, 4, 5), proposal_types=tuple(range(1, 8)))
    RULES.verify_key_package(member(0).key_package(), requiring(required.extension()))


def test_11_1_malformed_required_capabilities() -> None:
    with pytest.raises(MalformedError):
        requiring(Extension(ExtensionType.REQUIRED_CAPABILITIES, b"\0\0\0\0"))


def test_13_4_extensions_of_the_group_are_listed() -> None:
    requirements = requiring(Extension(0xF000, b""))
    with pytest.raises(InvalidError, match=r"13\.4"):
        RULES.verify_key_package(member(0).key_package(), requirements)
    RULES.verify_key_package(able(extensions=(0xF000,)).key_package(), requirements)


def test_13_5_grease_is_ignored_where_it_may_be() -> None:
    grease = tuple(sorted(GREASE))
    capabilities = Capabilities((1, *grease), (1, *grease), grease, grease, (1, *grease))
    extensions = tuple(Extension(number, b"random") for number in grease)
    person = member(0, capabilities=capabilities, extensions=extensions)
    package = person.key_package(extensions=extensions)
    assert type(package).decode(package.encode()) == package
    RULES.verify_key_package(package, ANY)


def test_13_5_grease_extension_of_a_leaf_must_be_listed_like_any_other() -> None:
    refused(member(0, extensions=(Extension(min(GREASE), b""),)), "RFC 9420 7.3")


def test_13_5_unknown_credential_that_everybody_lists() -> None:
    capabilities = replace(CAPABILITIES, credentials=(1, 0xF000))
    person = member(0, credential=UnknownCredential(0xF000, b"?"), capabilities=capabilities)
    RULES.verify_key_package(person.key_package(), ANY)


def test_5_1_1_encryption_key_is_a_key() -> None:
    for key in (b"", bytes(32), bytes(33)):
        refused(member(0, encryption_key=key), "RFC 9420 5.1.1")


# --- Updates and Commits ----------------------------------------------------------------------


def test_7_3_update() -> None:
    people = members(3)
    tree = tree_of(people)
    index = LeafIndex(0)
    good = people[0].updated(b"group", 0)
    RULES.check_update(tree.member(index), b"group", index, good, ANY)
    for leaf, section in (
        (people[0].updated(b"group", 0, encryption_key=people[0].leaf.encryption_key), "RFC 9420 7.3"),
        (people[0].updated(b"group", 0, source=CommitSource(b"")), "RFC 9420 7.3"),
        (people[0].leaf, "RFC 9420 7.3"),
        (people[0].updated(b"group", 1), "RFC 9420 5.1.2"),  # the index is signed
        (people[0].updated(b"other", 0), "RFC 9420 5.1.2"),  # and so is the group
        (replace(good, signature=b""), "RFC 9420 5.1.2"),
        (people[0].updated(b"group", 0, capabilities=Capabilities((1,), (2,))), "RFC 9420 7.2"),
    ):
        with pytest.raises(InvalidError) as caught:
            RULES.check_update(tree.member(index), b"group", index, leaf, ANY)
        assert caught.value.section == section


def test_7_3_leaf_of_a_commit() -> None:
    person = member(0)
    leaf = person.updated(b"group", 0, source=CommitSource(b"hash"))
    RULES.check_path_leaf(b"group", LeafIndex(0), leaf, ANY)
    for group_id, index, changed, section in (
        (b"other", 0, leaf, "RFC 9420 5.1.2"),
        (b"group", 1, leaf, "RFC 9420 5.1.2"),
        (b"group", 0, person.updated(b"group", 0), "RFC 9420 7.3"),
        (b"group", 0, replace(leaf, source=CommitSource(b"")), "RFC 9420 5.1.2"),
        (b"group", 0, person.leaf, "RFC 9420 7.3"),
    ):
        with pytest.raises(InvalidError) as caught:
            RULES.check_path_leaf(group_id, LeafIndex(index), changed, ANY)
        assert caught.value.section == section


# --- all members ------------------------------------------------------------------------------


def test_7_3_credential_type_of_a_newcomer_is_supported_by_all() -> None:
    both = replace(CAPABILITIES, credentials=(1, 2))
    old = tree_of([member(0), member(1).changed(capabilities=both)])
    newcomer = member(2, credential=X509Credential(()), capabilities=both)
    check_leaf(newcomer.leaf, ANY)
    tree, _ = old.add(newcomer.leaf)
    with pytest.raises(InvalidError) as caught:
        check_members(tree, ANY)
    assert caught.value.section == "RFC 9420 7.3"
    # with the member gone that did not support it, it is fine
    check_members(tree.remove(LeafIndex(0)), ANY)


def test_7_3_newcomer_supports_the_credential_types_in_use() -> None:
    newcomer = member(2, credential=X509Credential(()), capabilities=replace(CAPABILITIES, credentials=(2,)))
    check_leaf(newcomer.leaf, ANY)
    both = replace(CAPABILITIES, credentials=(1, 2))
    tree, _ = tree_of([member(n).changed(capabilities=both) for n in range(2)]).add(newcomer.leaf)
    with pytest.raises(InvalidError) as caught:
        check_members(tree, ANY)
    assert caught.value.section == "RFC 9420 7.3"


def test_12_1_7_new_requirements_are_met_by_all_members() -> None:
    tree = tree_of([able(extensions=(0xF000, 0xF000)), member(1)])
    for required in (
        requiring(Extension(0xF000, b"")),  # listed twice by one is not listed by two
        requiring(RequiredCapabilities(extension_types=(0xF000,)).extension()),
        requiring(RequiredCapabilities(proposal_types=(8,)).extension()),
        requiring(RequiredCapabilities(credential_types=(2,)).extension()),
    ):
        with pytest.raises(InvalidError) as caught:
            check_members(tree, required)
        assert caught.value.section == "RFC 9420 12.1.7"
    check_members(tree.remove(LeafIndex(1)), requiring(Extension(0xF000, b"")))


def test_12_2_proposal_that_is_not_supported_by_all() -> None:
    tree = tree_of([able(proposals=(10,)), member(1)])
    with pytest.raises(InvalidError) as caught:
        check_proposal_supported(tree, 10)
    assert caught.value.section == "RFC 9420 12.2"
    check_proposal_supported(tree.remove(LeafIndex(1)), 10)
    check_proposal_supported(tree, 1)


# --- remembered signatures --------------------------------------------------------------------


def test_a_key_package_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    package = member(0).key_package()
    remembered: set[bytes] = set()
    rules = LeafRules(NOW, remembered=remembered)
    rules.verify_key_package(package, ANY)
    assert len(remembered) == 2

    def never(*_: object) -> None:
        pytest.fail("verified again")

    monkeypatch.setattr(CipherSuite, "verify_with_label", never)
    rules.verify_key_package(package, ANY)
    # what is not about signatures is still looked at
    with pytest.raises(InvalidError) as caught:
        LeafRules(NOW + 365 * DAY, remembered=remembered).verify_key_package(package, ANY)
    assert caught.value.section == "RFC 9420 7.3"
