"""A small authority: its files, its commands, and what it signs as others see it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner, Result

from slixmpp_mls.authentication import X509Service
from slixmpp_mls.cli import app
from slixmpp_mls.client import Device
from slixmpp_mls.errors import InvalidError, MalformedError, StoreLocked, UsageError
from slixmpp_mls.identity import ClientIdentity, fingerprint
from slixmpp_mls.identity.certificate_authority import CertificateAuthority, Request
from slixmpp_mls.identity.certificates import IM_URI, certificate_request, chain_from_pem
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.structures.credential import X509Credential
from slixmpp_mls.store import SQLiteStore

from ..x509 import Authority, credential, device_key, leaf_with, pem

ALICE = ClientIdentity("alice@a.example", "a1")
SUITE = CipherSuite.get(1)
KEY = device_key(SUITE)
DAY = timedelta(days=1)
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path / "ca", "The coven", now=NOW)


def wish(client: ClientIdentity = ALICE) -> Request:
    return Request.parse(certificate_request(client.addresses, KEY))


# --- what it signs -----------------------------------------------------------------------------


async def test_what_it_issues_is_valid_until_it_is_revoked(authority: CertificateAuthority) -> None:
    issued = authority.issue(wish(), now=NOW, lifetime=30 * DAY)
    leaf = leaf_with(credential(issued.certificate), KEY.public)
    service = X509Service(authority.root_file, crls=authority.crl_file, clock=NOW.timestamp)
    assert [verdict.is_valid for verdict in await service.validate([leaf], SUITE)] == [True]
    authority.revoke([issued.certificate], now=NOW, reason=x509.ReasonFlags.key_compromise)
    await service.refresh()
    assert [verdict.reason for verdict in await service.validate([leaf], SUITE)] == ["revoked"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_agrees(authority: CertificateAuthority, tmp_path: Path) -> None:
    issued = authority.issue(wish(), now=NOW, lifetime=30 * DAY)
    (tmp_path / "own.pem").write_bytes(pem(issued.certificate))

    def verify() -> str:
        files = ["-CAfile", str(authority.root_file), "-CRLfile", str(authority.crl_file), str(tmp_path / "own.pem")]
        command = ["openssl", "verify", "-x509_strict", "-crl_check", "-attime", str(int(NOW.timestamp())), *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert "OK" in verify()
    authority.revoke([issued.certificate], now=NOW)
    assert "certificate revoked" in verify()


def test_a_certificate_says_what_it_should(authority: CertificateAuthority) -> None:
    certificate = authority.issue(wish(), now=NOW, lifetime=30 * DAY).certificate
    extensions = certificate.extensions
    assert ClientIdentity.from_credential(credential(certificate)) == ALICE
    assert extensions.get_extension_for_class(x509.SubjectAlternativeName).critical  # RFC 5280 4.1.2.6
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign, usage.key_agreement) == (True, False, False)
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [IM_URI]  # RFC 9734
    assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)
    assert certificate.not_valid_after_utc == NOW + 30 * DAY
    root = authority.root.extensions
    assert root.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_only_names_and_key_are_taken_from_a_request(authority: CertificateAuthority) -> None:
    """Whatever else somebody asks for, to be an authority, say."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    names = x509.load_pem_x509_csr(certificate_request(ALICE.addresses, KEY)).extensions
    san = names.get_extension_for_class(x509.SubjectAlternativeName).value
    request = builder.add_extension(san, critical=True).sign(KEY.loaded(), None).public_bytes(Encoding.PEM)
    issued = authority.issue(Request.parse(request), now=NOW, lifetime=DAY)
    assert not issued.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_requests_that_are_refused() -> None:
    good = certificate_request(ALICE.addresses, KEY)
    der = bytearray(x509.load_pem_x509_csr(good).public_bytes(Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    names = (("a@x",), ("a@x", "b@x/1"), ("A@x", "A@x/1"))
    for data in (forged, *(certificate_request(each, KEY) for each in names)):
        with pytest.raises(InvalidError):
            Request.parse(data)
    for data in (b"", b"garbage", good[:100], pem(Authority.root().certificate), bytes(2 << 20)):
        with pytest.raises(MalformedError):
            Request.parse(data)


def test_an_authority_certifies_nothing_beyond_its_own_end(authority: CertificateAuthority) -> None:
    with pytest.raises(UsageError):
        authority.issue(wish(), now=NOW, lifetime=3651 * DAY)


def test_lists_grow_and_are_counted(authority: CertificateAuthority) -> None:
    certificates = [authority.issue(wish(), now=NOW, lifetime=DAY).certificate for _ in range(3)]
    first = authority.revoke(certificates[:1], now=NOW, reason=x509.ReasonFlags.superseded)
    later = authority.revoke(certificates[:2], now=NOW + DAY)
    number = later.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert number == first.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number + 1 == 3
    assert [entry.revocation_date_utc for entry in later] == [NOW, NOW + DAY]  # once revoked is enough
    renewed = authority.sign_crl(now=NOW + 2 * DAY, lifetime=DAY)
    assert (len(renewed), renewed.next_update_utc) == (2, NOW + 3 * DAY)
    reason = renewed[0].extensions.get_extension_for_class(x509.CRLReason).value.reason
    assert reason is x509.ReasonFlags.superseded
    states = [each.state(NOW + DAY / 2) for each in authority.issued()]
    assert sorted(states) == ["revoked", "revoked", "valid"]
    assert {each.state(NOW + 2 * DAY) for each in authority.issued()} == {"revoked", "expired"}


# --- files -------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_key_is_for_its_owner_only(tmp_path: Path) -> None:
    authority = CertificateAuthority.create(tmp_path / "ca", "The coven", now=NOW, passphrase=b"toil and trouble")
    key = tmp_path / "ca" / "key.pem"
    assert (mode(key), mode(tmp_path / "ca"), mode(authority.root_file)) == (0o600, 0o700, 0o644)
    assert b"ENCRYPTED" in key.read_bytes()
    for passphrase in (None, b"double"):
        with pytest.raises(UsageError, match="passphrase"):
            authority.issue(wish(), now=NOW, lifetime=DAY, passphrase=passphrase)
        with pytest.raises(UsageError, match="passphrase"):
            authority.sign_crl(now=NOW, passphrase=passphrase)
    authority.issue(wish(), now=NOW, lifetime=DAY, passphrase=b"toil and trouble")
    names = {path.name for path in (tmp_path / "ca").rglob("*")}
    assert names == {"key.pem", "root.pem", "crl.pem", "issued", *(f"{each.serial}.pem" for each in authority.issued())}


def test_an_authority_is_not_made_twice(authority: CertificateAuthority) -> None:
    before = authority.root_file.read_bytes()
    with pytest.raises(UsageError):
        CertificateAuthority.create(authority.folder, "Another", now=NOW)
    assert authority.root_file.read_bytes() == before
    with pytest.raises(UsageError):
        CertificateAuthority(authority.folder / "issued")


def test_a_file_that_could_not_be_written_leaves_the_old_one(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in authority.folder.glob("*.pem")}

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        authority.sign_crl(now=NOW)
    assert {path: path.read_bytes() for path in authority.folder.glob("*.pem")} == before
    assert not list(authority.folder.glob(".*"))


def test_two_who_revoke_at_once_lose_nothing(authority: CertificateAuthority) -> None:
    certificates = [authority.issue(wish(), now=NOW, lifetime=DAY).certificate for _ in range(12)]
    threads = [
        threading.Thread(target=lambda each=each: CertificateAuthority(authority.folder).revoke([each], now=NOW))
        for each in certificates
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(authority.crl()) == 12


# --- commands ----------------------------------------------------------------------------------


def run(*arguments: Any, text: str | bytes | None = None, **env: str) -> Result:
    return CliRunner().invoke(app, ["ca", *map(str, arguments)], input=text, env={"COLUMNS": "200", **env})


def done(*arguments: Any, **options: Any) -> str:
    result = run(*arguments, **options)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def refused(*arguments: Any, **options: Any) -> str:
    result = run(*arguments, **options)
    assert result.exit_code != 0
    return str(result.exception) + result.output


@pytest.fixture
def device(tmp_path: Path) -> tuple[Path, str]:
    """A store, and the full identity of the device in it."""
    store = SQLiteStore(tmp_path / "alice.db", ALICE.account)
    identity = str(Device(store).identity)
    store.close()
    return tmp_path / "alice.db", identity


@pytest.mark.parametrize("command", ["init", "request", "use", "issue", "list", "revoke", "crl"])
def test_help_has_an_example(command: str) -> None:
    assert f"slixmpp-mls ca {command}" in run(command, "--help").output


def test_from_an_authority_to_a_revocation(tmp_path: Path, device: tuple[Path, str]) -> None:
    store, identity = device
    folder, secret = tmp_path / "ca", {"MLS_CA_PASSPHRASE": "toil and trouble"}
    made = json.loads(done("init", folder, "--name", "The coven", "--json", **secret))
    assert Path(made["root"]).exists()
    csr = done("request", store)
    assert str(Request.parse(csr.encode()).client) == identity
    file = tmp_path / "alice.csr"
    file.write_text(csr)
    print_ = fingerprint(Request.parse(csr.encode()).key)

    assert "not bob" in refused("issue", folder, file, "--for", "bob@a.example", "--yes", **secret)
    assert "another fingerprint" in refused("issue", folder, file, "--fingerprint", "00" * 32, **secret)
    asked = refused("issue", folder, file, **secret)
    assert "no terminal to ask" in asked
    assert print_ in asked
    assert "passphrase" in refused("issue", folder, file, "--yes")
    assert run("list", folder).exit_code == 1

    chain = tmp_path / "alice.pem"
    done("issue", folder, file, "--fingerprint", print_, "--for", ALICE.account, "-o", chain, "--days", "30", **secret)
    assert "has its certificate" in done("use", store, chain)
    opened = SQLiteStore(store, None)
    try:
        own = Device(opened).credential(SUITE)
        assert own == chain_from_pem(chain.read_bytes())
        assert isinstance(run("use", store, chain).exception, StoreLocked)
    finally:
        opened.close()

    (listed,) = json.loads(done("list", folder, "--json"))
    assert (f"{listed['account']}/{listed['device']}", listed["state"]) == (identity, "valid")
    assert listed["fingerprint"] == print_
    assert print_ in done("list", folder)

    assert "no valid certificate" in refused("revoke", folder, "bob@a.example", **secret)
    revoked = json.loads(done("revoke", folder, identity, "--reason", "keyCompromise", "--json", **secret))
    assert (revoked["revoked"], revoked["now_revoked"]) == (1, [listed["serial"]])
    assert run("list", folder).exit_code == 1
    assert "revoked" in done("list", folder, "--all")
    assert "current until" in done("crl", folder, "--days", "3", **secret)
    assert json.loads(done("crl", folder, "--json", **secret))["revoked"] == 1


def test_a_certificate_straight_into_a_store(tmp_path: Path, device: tuple[Path, str]) -> None:
    store, identity = device
    folder = tmp_path / "ca"
    done("init", folder, "--name", "The coven", "--no-passphrase")
    assert identity in done("issue", folder, "--store", store, "--for", identity)
    opened = SQLiteStore(store, None)
    assert isinstance(Device(opened).credential(SUITE), X509Credential)
    opened.close()
    (issued,) = json.loads(done("list", folder, "--json"))
    assert done("issue", folder, "-", "--yes", text=done("request", store)).startswith("-----BEGIN CERTIFICATE-----")
    assert "2, and" in done("revoke", folder, ALICE.account)
    assert issued["serial"] in done("list", folder, "--all")


def test_what_is_not_there(tmp_path: Path, device: tuple[Path, str]) -> None:
    store, _ = device
    for command in (["list", tmp_path], ["crl", tmp_path], ["revoke", tmp_path, "a@x"], ["issue", tmp_path, store]):
        assert "contains no authority" in refused(*command)
    assert "there is no store" in refused("request", tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "garbage.pem").write_text("garbage")
    assert "no certificates in PEM" in refused("use", store, tmp_path / "garbage.pem")
    done("init", tmp_path / "ca", "--name", "The coven", "--no-passphrase")
    assert "already contains an authority" in refused("init", tmp_path / "ca", "--name", "x", "--no-passphrase")
    assert "no passphrase" in refused("init", tmp_path / "cb", "--name", "x")
    assert "not valid for an authority" in refused("init", tmp_path / "cb", "--name", "", "--no-passphrase")
    assert not (tmp_path / "cb").exists()


def test_the_commands_of_the_page_for_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/certificates.md, from top to bottom."""
    page = (Path(__file__).parents[2] / "docs" / "certificates.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    monkeypatch.chdir(tmp_path)
    bob = ClientIdentity("bob@example.org", "4e1b0f6a92c35d78")
    Path("bot.csr").write_bytes(certificate_request(bob.addresses, KEY))
    ran = []
    for line in lines:
        words = [word for word in shlex.split(line, comments=True) if not word.startswith("MLS_CA_PASSPHRASE=")]
        assert words[:2] == ["slixmpp-mls", "ca"]
        asked = ["--yes"] if words[2] == "issue" else []  # there is nobody to ask
        done(*words[2:], *asked, MLS_CA_PASSPHRASE="toil and trouble")
        ran.append(words[2])
    assert ran == ["init", "issue", "list", "revoke", "crl"]
    assert chain_from_pem(Path("bot.pem").read_bytes())
    (issued,) = CertificateAuthority("authority").issued()
    assert (issued.client, issued.revoked is not None) == (bob, True)
