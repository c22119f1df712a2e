"""X.509 credentials: whom they name, and which are believed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from slixmpp_mls.authentication import AcceptAll, AllOf, AnyOf, Validity, Verdict, X509Service
from slixmpp_mls.errors import InvalidError, MalformedError, UsageError
from slixmpp_mls.identity import ClientIdentity
from slixmpp_mls.identity.certificates import (
    IM_URI,
    MAX_CERTIFICATE,
    MAX_CHAIN,
    certificate_request,
    certified_key,
    chain_from_pem,
    chain_of,
    subject_alternative_name,
    xmpp_addresses,
)
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.registry import CipherSuiteId
from slixmpp_mls.mls.structures.credential import Certificate, X509Credential
from slixmpp_mls.mls.structures.leaf_node import LeafNode

from ..x509 import DAYS, NO_CERTIFYING, START, Authority, credential, device_key, leaf_with, pem

ALICE = ClientIdentity("alice@a.example", "a1")
BOB = ClientIdentity("bob@b.example", "b1")
SUITE = CipherSuite.get(1)
KEY, OTHER = device_key(SUITE), device_key(SUITE, 1)
NOW = START + DAYS
ROOT = Authority.root("root", start=START - 365 * DAYS, lasts=730 * DAYS)
CERTIFICATE = credential(ROOT.device(ALICE, KEY, serial=1 << 158)).certificates[0].cert_data
STRANGER = Authority.root("stranger")
XMPP_ADDR = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5")


def service(roots: Any = None, *, now: datetime = NOW, **options: Any) -> X509Service:
    return X509Service(roots or pem(ROOT.certificate), clock=now.timestamp, **options)


async def answer_on(authority: Any, leaf: LeafNode, suite: CipherSuite = SUITE) -> str:
    """In one word: "valid", or why not."""
    (verdict,) = await authority.validate([leaf], suite)
    assert verdict.is_valid == (verdict.reason == "") == (verdict.text == "")
    return str(verdict.reason or verdict.validity.value)


def leaf(chain: X509Credential | None = None, **options: Any) -> LeafNode:
    return leaf_with(chain or credential(ROOT.device(ALICE, KEY, **options)), KEY.public)


# --- whom a certificate names ------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
def test_a_certificate_names_a_client(reverse: bool) -> None:
    names = ALICE.addresses[::-1] if reverse else ALICE.addresses
    chain = credential(ROOT.device(ALICE, KEY, names=names))
    assert ClientIdentity.from_credential(chain) == ALICE
    assert ClientIdentity.from_leaf(leaf(chain)) == ALICE


@pytest.mark.parametrize(
    "names",
    [
        (), ("alice@a.example",), ("alice@a.example/a1",), ("alice@a.example", "alice@a.example"),
        ("alice@a.example", "bob@b.example/a1"), ("alice@a.example", "alice@a.example/a1", "bob@b.example"),
        ("Alice@a.example", "Alice@a.example/a1"), ("alice@a.example", "alice@a.example/a/1"),
        ("alice@a.example", "alice@a.example/"), ("a.example", "a.example/a1"), ("alice@a.example", "alice@a.examples"),
    ],
)  # fmt: skip
def test_certificates_that_name_no_client(names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidError):
        ClientIdentity.from_credential(credential(ROOT.device(ALICE, KEY, names=names)))


@pytest.mark.parametrize(
    "value",
    [
        b"\x16\x0falice@a.example", b"\x0c\x81\x0elice@a.example", b"\x0c\x0elice@a.example\0",
        b"\x0c\x0f\xfflice@a.example", b"\x0c\x10alice@a.example", b"\x0c\x80alice@a.example",
    ],
)  # fmt: skip
def test_a_name_that_is_no_utf8_string_in_der(value: bytes) -> None:
    """RFC 6120 13.7.1.4: UTF8String; X.690 10.1: one encoding of each."""
    good = b"\x0c\x0falice@a.example"
    assert CERTIFICATE.count(good) == 1
    assert len(value) == len(good)
    chain = X509Credential((Certificate(CERTIFICATE.replace(good, value)),))
    with pytest.raises(InvalidError):
        ClientIdentity.from_credential(chain)


def test_a_serial_number_that_is_not_positive() -> None:
    """RFC 5280 4.1.2.2; `cryptography` still lets it pass, with a warning."""
    tag = CERTIFICATE.index(b"\x02\x14", 8)  # the first INTEGER of 20 octets
    data = CERTIFICATE[: tag + 2] + b"\xff" + CERTIFICATE[tag + 3 :]
    with pytest.raises(InvalidError):
        ClientIdentity.from_credential(X509Credential((Certificate(data),)))


def test_names_of_other_kinds_do_not_count() -> None:
    more = [x509.DNSName("a.example"), x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\0")]
    san = x509.SubjectAlternativeName([*more, *subject_alternative_name(ALICE.addresses)])
    assert ClientIdentity.from_credential(credential(ROOT.device(ALICE, KEY, san=san))) == ALICE


def test_limits_are_the_same_for_everybody() -> None:
    good = credential(ROOT.device(ALICE, KEY)).certificates
    assert ClientIdentity.from_credential(X509Credential(good * MAX_CHAIN)) == ALICE
    large = (*good, Certificate(bytes(MAX_CERTIFICATE)))  # what is in the others, nobody needs to read for the name
    assert ClientIdentity.from_credential(X509Credential(large)) == ALICE
    for chain in ((), good * (MAX_CHAIN + 1), (*good, Certificate(bytes(MAX_CERTIFICATE + 1)))):
        with pytest.raises(InvalidError):
            ClientIdentity.from_credential(X509Credential(chain))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_garbage_in_a_certificate_is_refused_and_nothing_else(data: st.DataObject) -> None:
    octets = bytearray(CERTIFICATE)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(octets) - 1))
        if data.draw(st.booleans()):
            octets[place] = data.draw(st.integers(0, 255))
        else:
            del octets[place:]
            break
        if not octets:
            break
    chain = X509Credential((Certificate(bytes(octets)),))
    try:
        named = ClientIdentity.from_credential(chain)
    except InvalidError:
        named = None
    (verdict,) = asyncio.run(service().validate([leaf(chain)], SUITE))
    # Only what the authority has signed is believed; of ECDSA signatures there may be another spelling.
    assert verdict.is_invalid or (named == ALICE and bytes(octets)[:-80] == CERTIFICATE[:-80])


# --- keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", CipherSuiteId)
async def test_devices_of_every_suite(number: int) -> None:
    """RFC 9420 5.3: the certified key is the leaf's; 17.1: for the suite's signature scheme."""
    suite = CipherSuite.get(number)
    key = device_key(suite)
    certificate = ROOT.device(ALICE, key)
    assert certified_key(certificate) == (suite.signature_scheme, key.public)
    assert await answer_on(service(), leaf_with(credential(certificate), key.public), suite) == "valid"
    request = x509.load_pem_x509_csr(certificate_request(ALICE.addresses, key))
    assert request.is_signature_valid
    assert certified_key(request) == (suite.signature_scheme, key.public)
    assert xmpp_addresses(request) == ALICE.addresses
    assert request.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature


@pytest.mark.parametrize("number", [2, 4, 5])
async def test_a_key_of_another_scheme(number: int) -> None:
    key = device_key(CipherSuite.get(number))
    leaf = leaf_with(credential(ROOT.device(ALICE, key)), key.public)
    assert await answer_on(service(), leaf) == "other-key"


async def test_a_key_of_no_suite() -> None:
    key = rsa.generate_private_key(65537, 2048)
    certificate = ROOT.certify("", key.public_key(), names=ALICE.addresses)
    with pytest.raises(InvalidError):
        certified_key(certificate)
    assert await answer_on(service(), leaf(credential(certificate))) == "other-key"


async def test_a_certificate_of_somebody_else_with_ones_own_key() -> None:
    """RFC 9420 5.3: Alice's certificate is public, and anybody can put it into a leaf."""
    chain = credential(ROOT.device(ALICE, KEY))
    assert await answer_on(service(), leaf_with(chain, OTHER.public)) == "other-key"


# --- the table ---------------------------------------------------------------------------------


def usage(**changes: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: changes.get(name, False) for name in names})


def purposes(*found: x509.ObjectIdentifier) -> dict[str, Any]:
    return {"extensions": [(x509.ExtendedKeyUsage(found), False)]}


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\0")
SERVER, CLIENT, ANY = (
    ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({}, "valid"),
        ({"names": ("alice@a.example", "bob@b.example/b1")}, "no-client"),
        ({"ca": True}, "wrong-usage"),
        ({"ca": True, "usage": usage(digital_signature=True, key_cert_sign=True)}, "wrong-usage"),
        ({"usage": usage(key_agreement=True)}, "wrong-usage"),
        ({"usage": None}, "valid"),  # RFC 5280 4.2.1.3: without the extension, for everything
        (purposes(IM_URI), "valid"),
        (purposes(SERVER, IM_URI), "valid"),
        (purposes(ANY), "valid"),
        (purposes(SERVER), "wrong-usage"),
        (purposes(CLIENT), "wrong-usage"),  # RFC 9734 1
        ({"extensions": [(UNKNOWN, False)]}, "valid"),
        ({"extensions": [(UNKNOWN, True)]}, "untrusted"),  # RFC 5280 4.2: critical, and not known
        ({"start": START - 30 * DAYS}, "expired"),
        ({"start": START + 2 * DAYS}, "not-yet-valid"),
    ],
)
async def test_the_table(options: dict[str, Any], answer: str) -> None:
    assert await answer_on(service(), leaf(**options)) == answer


async def test_credentials_without_certificates() -> None:
    basic = replace(leaf(), credential=ALICE.credential())
    assert await answer_on(service(), basic) == "no-certificate"
    assert await answer_on(service(), leaf(X509Credential(()))) == "no-client"
    garbage = X509Credential((*credential(ROOT.device(ALICE, KEY)).certificates, Certificate(b"\x30\x80garbage")))
    assert await answer_on(service(), leaf(garbage)) == "untrusted"


async def test_validity_is_that_of_the_injected_clock_to_the_second() -> None:
    second = timedelta(seconds=1)
    made = leaf(start=START, lasts=2 * DAYS)
    for now, answer in (
        (START - second, "not-yet-valid"),
        (START, "valid"),
        (START + 2 * DAYS, "valid"),  # RFC 5280 4.1.2.5: inclusive
        (START + 2 * DAYS + second, "expired"),
    ):
        assert await answer_on(service(now=now), made) == answer


# --- paths -------------------------------------------------------------------------------------


def below(*authorities: Authority) -> LeafNode:
    """A leaf certified by the first of them, with the certificates of all in its chain."""
    own = authorities[0].device(ALICE, KEY)
    return leaf(credential(own, *(each.certificate for each in authorities)))


async def test_paths() -> None:
    """RFC 5280 6.1, as `cryptography` sees it."""
    one = ROOT.below("one")
    two = one.below("two")
    assert await answer_on(service(), below(one)) == "valid"
    assert await answer_on(service(), below(two, one)) == "valid"
    # RFC 9420 5.3: certificates that supported peers are known to have may be left out, a root for instance.
    assert await answer_on(service(), below(one, ROOT)) == "valid"
    assert await answer_on(service(pem(ROOT.certificate, one.certificate)), below(two)) == "valid"
    assert await answer_on(service(), below(two)) == "untrusted"  # the intermediate is missing
    assert await answer_on(service(), below(STRANGER)) == "untrusted"
    assert await answer_on(service(), below(ROOT.below("one"), STRANGER)) == "valid"  # what helps nobody does no harm
    assert await answer_on(service([pem(ROOT.certificate), pem(STRANGER.certificate)]), below(STRANGER)) == "valid"


async def test_an_authority_of_the_same_name_as_the_root() -> None:
    impostor = Authority.root("root")
    assert await answer_on(service(), below(impostor)) == "untrusted"


async def test_a_certified_device_certifies_nobody() -> None:
    """RFC 5280 4.2.1.9, 4.2.1.3: mallory's own good certificate is no authority's."""
    mallory = ROOT.below("mallory", ca=False)
    assert await answer_on(service(), below(mallory)) == "untrusted"
    assert await answer_on(service(), below(ROOT.below("no signing", usage=NO_CERTIFYING))) == "untrusted"
    assert await answer_on(service(), below(ROOT.below("a", path_length=0).below("b"))) == "untrusted"
    no_deeper = ROOT.below("a", path_length=0)
    assert await answer_on(service(), below(no_deeper.below("b"), no_deeper)) == "untrusted"


async def test_an_authority_for_other_purposes() -> None:
    assert await answer_on(service(), below(ROOT.below("web", **purposes(SERVER)))) == "untrusted"
    assert await answer_on(service(), below(ROOT.below("messages", **purposes(IM_URI)))) == "valid"


async def test_an_authority_that_has_expired() -> None:
    assert await answer_on(service(), below(ROOT.below("old", start=START - 40 * DAYS))) == "expired"
    old = Authority.root("old root", start=START - 40 * DAYS)
    assert await answer_on(service(pem(old.certificate)), below(old)) == "expired"
    hidden = leaf(credential(old.device(ALICE, KEY)))
    assert await answer_on(service(pem(old.certificate)), hidden) == "untrusted"


async def test_a_chain_that_is_too_long() -> None:
    chain = [ROOT]
    for number in range(MAX_CHAIN):
        chain.append(chain[-1].below(f"authority {number}"))
    assert await answer_on(service(), below(*chain[MAX_CHAIN - 1 : 0 : -1])) == "valid"
    assert await answer_on(service(), below(*chain[MAX_CHAIN:0:-1])) == "no-client"  # RFC 9420 leaves the limit to us
    assert await answer_on(service(max_chain=1), below(ROOT)) == "untrusted"  # the root itself is in the chain
    assert await answer_on(service(max_chain=1), leaf()) == "valid"
    assert await answer_on(service(max_chain=1), below(chain[1])) == "untrusted"


async def test_an_eddsa_authority_is_not_believed() -> None:
    """`cryptography` builds no paths with them; the documents say so."""
    authority = Authority.root("ed", Ed25519PrivateKey.generate())
    assert await answer_on(service(pem(authority.certificate)), below(authority)) == "untrusted"


# --- revocation --------------------------------------------------------------------------------


async def test_revocation() -> None:
    """RFC 5280 6.3."""
    one = ROOT.below("one")
    own, other = one.device(ALICE, KEY), one.device(ALICE, KEY)
    made, spared = (leaf(credential(each, one.certificate)) for each in (own, other))
    lists = [pem(ROOT.crl()), pem(one.crl(own))]
    assert await answer_on(service(), made) == "valid"  # nobody has asked for revocation
    assert await answer_on(service(crls=lists), made) == "revoked"
    assert await answer_on(service(crls=lists), spared) == "valid"
    assert await answer_on(service(crls=[pem(ROOT.crl(one.certificate)), lists[1]]), spared) == "revoked"
    # The number is the root's list's, not the authority's.
    assert await answer_on(service(crls=[pem(ROOT.crl(own)), pem(one.crl())]), made) == "valid"


@pytest.mark.parametrize("without", list(Validity))
async def test_without_a_current_list_it_is_as_configured(without: Validity) -> None:
    own = ROOT.device(ALICE, KEY, lasts=365 * DAYS)
    made, later = leaf(credential(own)), START + 31 * DAYS
    options: dict[str, Any] = {"without_list": without}
    expected = "valid" if without is Validity.VALID else "no-revocation-list"

    async def answer(*lists: x509.CertificateRevocationList, now: datetime = NOW) -> tuple[str, Validity]:
        (verdict,) = await service(crls=[pem(each) for each in lists], now=now, **options).validate([made], SUITE)
        return verdict.reason or verdict.validity.value, verdict.validity

    assert await answer(ROOT.crl()) == ("valid", Validity.VALID)
    assert await answer(ROOT.crl(), now=later) == (expected, without)  # outdated
    assert await answer(STRANGER.crl()) == (expected, without)  # of somebody else
    assert await answer(Authority.root("root").crl(own)) == (expected, without)  # of somebody with the same name
    assert await answer(ROOT.crl(at=START + 2 * DAYS)) == (expected, without)  # not yet
    assert await answer(ROOT.crl(own), now=later) == ("revoked", Validity.INVALID)  # outdated, but it says so
    # The newest counts.
    assert await answer(ROOT.crl(own), ROOT.crl(at=START + timedelta(hours=1))) == ("valid", Validity.VALID)


async def test_a_list_signed_by_who_may_not_sign_lists() -> None:
    """RFC 5280 6.3.3 (f)."""
    one = ROOT.below("one", usage=usage(key_cert_sign=True))
    own = one.device(ALICE, KEY)
    authority = service(crls=[pem(ROOT.crl()), pem(one.crl(own))])
    assert await answer_on(authority, leaf(credential(own, one.certificate))) == "no-revocation-list"


def test_lists_that_cannot_be_understood_are_no_lists() -> None:
    """RFC 5280 5.2.4, 5.2.5: of changes only, of some certificates only."""
    of_changes = (x509.DeltaCRLIndicator(1), True)
    only = x509.IssuingDistributionPoint(None, None, True, False, None, False, False)
    for extension in (of_changes, (only, True)):
        with pytest.raises(UsageError):
            service(crls=pem(ROOT.crl(extensions=[extension])))


# --- files -------------------------------------------------------------------------------------


def test_sources_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "garbage").write_bytes(b"\xff" * 100)
    files = (tmp_path / "missing", tmp_path / "empty", tmp_path / "garbage", tmp_path)
    sources: tuple[Any, ...] = (b"", [], *files, pem(ROOT.crl()))
    for roots in sources:
        with pytest.raises(UsageError):
            service(roots) if roots else X509Service(roots)
    for crls in (b"", str(tmp_path / "missing"), tmp_path / "empty", tmp_path / "garbage", pem(ROOT.certificate)):
        with pytest.raises(UsageError):
            service(crls=[crls])


async def test_a_new_list_in_the_file_is_told_to_who_is_subscribed(tmp_path: Path) -> None:
    file = tmp_path / "crl.pem"
    own = ROOT.device(ALICE, KEY)
    bobs = leaf_with(credential(ROOT.device(BOB, OTHER)), OTHER.public)
    file.write_bytes(pem(ROOT.crl()))
    authority = service(crls=file, interval=0.01)
    heard: asyncio.Queue[str] = asyncio.Queue()
    end = authority.subscribe(heard.put_nowait)
    assert await answer_on(authority, leaf(credential(own))) == "valid"
    assert await answer_on(authority, bobs) == "valid"
    file.write_bytes(b"half a")  # whoever writes it is not careful
    await asyncio.sleep(0.05)
    assert await answer_on(authority, leaf(credential(own))) == "valid"
    file.write_bytes(pem(ROOT.crl(own)))
    async with asyncio.timeout(60):
        assert await heard.get() == ALICE.account
    assert heard.empty()
    assert await answer_on(authority, leaf(credential(own))) == "revoked"
    assert await answer_on(authority, bobs) == "valid"
    end()
    end()
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "mls certificates"]


async def test_time_passes_and_is_told() -> None:
    now = NOW.timestamp()
    authority = X509Service(pem(ROOT.certificate), clock=lambda: now)
    heard: list[str] = []
    authority.subscribe(heard.append)()
    end = authority.subscribe(heard.append)
    assert await answer_on(authority, leaf()) == "valid"
    await authority.refresh()
    assert heard == []
    now += 30 * 86400
    await authority.refresh()
    await authority.refresh()
    assert heard == [ALICE.account]
    end()


HOUR = timedelta(hours=1)
SHORT = ROOT.below("short", start=START + 2 * HOUR, lasts=4 * HOUR)
CHANGING = [
    leaf(credential(SHORT.device(ALICE, KEY, start=START + HOUR, lasts=4 * HOUR), SHORT.certificate)),
    leaf(start=START + HOUR, lasts=HOUR),
    leaf(credential(STRANGER.device(ALICE, KEY, start=START + 3 * HOUR))),
]
CHANGING_LISTS = [
    pem(ROOT.crl(at=START, lasts=5 * HOUR)),
    pem(ROOT.crl(SHORT.certificate, at=START + 4 * HOUR, lasts=HOUR / 2)),
    pem(SHORT.crl(at=START + 3 * HOUR, lasts=HOUR)),
]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 14), st.sampled_from([-1, 0, 1])), min_size=2, max_size=12))
def test_what_is_remembered_is_what_would_be_said(times: list[tuple[int, int]]) -> None:
    """At any time, also if the clock goes back: at the beginnings and ends of things above all."""

    now = START

    async def ask() -> None:
        nonlocal now
        one = X509Service(pem(ROOT.certificate), crls=CHANGING_LISTS, clock=lambda: now.timestamp())
        for half_hours, seconds in times:
            now = START + half_hours * HOUR / 2 + timedelta(seconds=seconds)
            fresh = service(crls=CHANGING_LISTS, now=now)
            assert await one.validate(CHANGING, SUITE) == await fresh.validate(CHANGING, SUITE)

    asyncio.run(ask())


async def test_changing_leaves_do_change() -> None:
    """The test above is about something."""
    said = set()
    for half_hours in range(15):
        authority = service(crls=CHANGING_LISTS, now=START + half_hours * HOUR / 2)
        said.add(tuple([await answer_on(authority, each) for each in CHANGING]))
    assert len(said) >= 6, said


# --- with others -------------------------------------------------------------------------------


async def test_combined_with_another_service() -> None:
    good = leaf()
    stolen, basic = replace(good, signature_key=OTHER.public), replace(good, credential=ALICE.credential())
    for combination, expected in (
        (AllOf(AcceptAll(), service()), ["valid", "other-key", "no-certificate"]),
        (AnyOf(AcceptAll(), service()), ["valid", "valid", "valid"]),
    ):
        assert [await answer_on(combination, each) for each in (good, stolen, basic)] == expected


async def test_the_rest_of_the_interface() -> None:
    authority = service()
    await authority.issue(ALICE, {SUITE.signature_scheme: KEY.public})
    assert await authority.same_client(leaf().credential, ALICE.credential())
    assert not await authority.same_client(leaf().credential, BOB.credential())
    several = [leaf()] * 200  # more than are judged at once
    assert await authority.validate(several, SUITE) == [Verdict(Validity.VALID)] * 200


# --- PEM ---------------------------------------------------------------------------------------


def test_a_chain_from_pem() -> None:
    one = ROOT.below("one")
    own = one.device(ALICE, KEY)
    made = chain_from_pem(b"words before\n" + pem(own, one.certificate))
    assert made == credential(own, one.certificate)
    assert chain_of(made) == (own, one.certificate)
    for data in (b"", b"garbage", pem(ROOT.crl()), pem(own)[:-40]):
        with pytest.raises(MalformedError):
            chain_from_pem(data)
    with pytest.raises(InvalidError):
        chain_from_pem(pem(*[own] * (MAX_CHAIN + 1)))
