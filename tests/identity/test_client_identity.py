"""Names of clients: one spelling each, everything else refused."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slixmpp.jid import JID, InvalidJID

from slixmpp_mls.errors import InvalidError, UsageError
from slixmpp_mls.identity import ClientIdentity, check_bare_jid, fingerprint, key_identifier, new_device_id
from slixmpp_mls.mls.structures.credential import BasicCredential, Certificate, UnknownCredential, X509Credential
from slixmpp_mls.stanza.elements import DEVICE_ID

NORMAL = [
    "alice@example.org", "a.b+c!#$%()*,;=?[\\]^_`{|}~0@x", "a\\20b@example.org", "ä@exämple.org", "юля@пример.рф",
    "a@1.2.3.4", "a@[::1]", "a@[2001:db8::7]", "a@my_host", "a@x-y.z", "strasse@x", "अ@x",
]  # fmt: skip
NOT_NORMAL = [
    ("", "empty"), ("example.org", "no localpart"), ("@x", "empty localpart"), ("a@", "empty domain"),
    ("Alice@example.org", "capital"), ("alice@Example.org", "capital in the domain"), ("a b@x", "space"),
    ("a\"b@x", "quote"), ("a&b@x", "ampersand"), ("a'b@x", "apostrophe"), ("a/b@x", "slash"), ("a:b@x", "colon"),
    ("a<b@x", "less"), ("a>b@x", "greater"), ("a@b@x", "at"), ("a\n@x", "line feed"), ("a@x\n", "line feed at the end"),
    ("a\x7f@x", "delete"), ("a\x00@x", "null"), ("a@x.", "final dot"), ("a@.x", "first dot"), ("a@b..c", "two dots"),
    ("a@-x", "hyphen first"), ("a@x-", "hyphen last"), ("a@x y", "space in the domain"), ("a@x:5222", "port"),
    ("a@xn--exmple-cua.org", "A-label"), ("a@ab--cd.org", "reserved label"), ("a@äb--cd", "reserved U-label"),
    ("a@" + "x" * 64, "label of 64"), ("a@" + "ä" * 63, "U-label too long"),
    ("a" * 1024 + "@x", "localpart of 1024"), ("ä" * 512 + "@x", "localpart of 1024 octets"),
    ("a@" + ".".join(["x" * 50] * 21), "domain of over 1023"), ("a@[::0001]", "IPv6, not shortest"),
    ("a@[::1%eth0]", "zone index"), ("a@[]", "empty literal"), ("a@[1.2.3.4]", "IPv4 in brackets"),
    ("Ä@x", "capital beyond ASCII"), ("a\u0308@x", "decomposed"), ("straße@x", "folded by Nodeprep"),
    ("\u2163@x", "compatibility character"), ("\u0378@x", "unassigned"), ("a\u200b@x", "mapped to nothing"),
    ("a\u00a0ä@x", "no-break space"), ("\ue000@x", "private use"), ("\u05d0a@x", "mixed directions"),
    ("a@ä\u3002x", "ideographic full stop"), ("a@a\u0308x", "decomposed domain"), ("a@ÄX", "capital U-label"),
    ("a@-ä", "U-label, hyphen first"), ("a@ä_!", "exclamation mark"), ("a@ä:x", "colon in a U-label"),
    ("\ud800@x", "surrogate"),
]  # fmt: skip


@pytest.mark.parametrize("account", NORMAL)
def test_normal_form_is_accepted_and_is_what_slixmpp_makes_of_it(account: str) -> None:
    check_bare_jid(account)
    assert JID(account).bare == account
    client = ClientIdentity(account, "d")
    assert ClientIdentity.from_credential(client.credential()) == client


@pytest.mark.parametrize(("account", "why"), NOT_NORMAL, ids=[why for _, why in NOT_NORMAL])
def test_anything_but_the_normal_form_is_refused(account: str, why: str) -> None:
    """RFC 7622 3.1 to 3.3"""
    with pytest.raises(UsageError):
        ClientIdentity(account, "d")
    with pytest.raises(InvalidError):
        ClientIdentity.from_credential(BasicCredential(f"{account}/d".encode("utf-8", "surrogatepass")))


@given(st.text(min_size=1, max_size=6), st.text(min_size=1, max_size=6))
def test_what_is_accepted_has_no_other_spelling(local: str, domain: str) -> None:
    """An accepted address is a fixed point of slixmpp's preparation, or one that it does not take at all."""
    account = f"{local}@{domain}"
    try:
        check_bare_jid(account)
    except ValueError:
        return
    with suppress(InvalidJID):
        assert JID(account).bare == account


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=5))
def test_what_slixmpp_prepares_is_accepted(local: str) -> None:
    try:
        prepared = JID(f"{local}@example.org").bare
    except InvalidJID:
        return
    if "@" in prepared and JID(prepared).bare == prepared:
        check_bare_jid(prepared)


@pytest.mark.parametrize("device", ["", "a b", "a/b", "x" * 65, "é", "a\n", "a.b"])
def test_device_ids_are_1_to_64_of_their_alphabet(device: str) -> None:
    with pytest.raises(UsageError):
        ClientIdentity("a@x", device)
    with pytest.raises(InvalidError):
        ClientIdentity.from_credential(BasicCredential(f"a@x/{device}".encode()))


def test_device_ids_here_are_those_of_the_stanzas() -> None:
    for device in ("x" * 64, "A-z_0", new_device_id()):
        DEVICE_ID.check(device)
        assert ClientIdentity("a@x", device).device == device


def test_new_devices_differ_and_have_64_bits() -> None:
    devices = {ClientIdentity.new("a@x").device for _ in range(1000)}
    assert len(devices) == 1000
    assert all(re.fullmatch("[0-9a-f]{16}", device) for device in devices)


@pytest.mark.parametrize(
    "credential",
    [
        BasicCredential(b"a@x"), BasicCredential(b""), BasicCredential(b"\xff@x/d"), BasicCredential(b"a@x/d/e"),
        X509Credential((Certificate(b"\x30"),)), UnknownCredential(0x0A0A, b"a@x/d"),
    ],
)  # fmt: skip
def test_credentials_that_name_no_client(credential: BasicCredential | X509Credential | UnknownCredential) -> None:
    with pytest.raises(InvalidError):
        ClientIdentity.from_credential(credential)


def test_fingerprint_is_sha256_in_eight_groups_of_eight() -> None:
    # FIPS 180-2, B.1: the digest of "abc"
    assert key_identifier(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert fingerprint(b"abc") == "ba7816bf 8f01cfea 414140de 5dae2223 b00361a3 96177a9c b410ff61 f20015ad"
