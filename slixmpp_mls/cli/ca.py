"""``slixmpp-mls ca``: a certification authority for the devices of an organization."""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from rich.table import Table
from rich.text import Text

from ..client import Device
from ..client.device import KeyPackageSettings
from ..errors import PeerError, UsageError
from ..identity import fingerprint, key_identifier
from ..identity.certificate_authority import MAX_FILE, CertificateAuthority, Issued, Request
from ..identity.certificates import chain_from_pem
from ..mls.crypto.cipher_suite import CipherSuite
from ..store import SQLiteStore, is_encrypted
from .store import KeyFile, secret_of
from .terminal import clean, console, errors

__all__ = ["app"]

VARIABLE = "MLS_CA_PASSPHRASE"

app = typer.Typer(name="ca", no_args_is_help=True, rich_markup_mode="markdown")

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of the authority.", envvar="MLS_CA")]
Store = Annotated[Path, typer.Argument(metavar="STORE", help="The store of the device, which must not be running.")]
Suite = Annotated[int, typer.Option(help="The number of the cipher suite of the key.")]
Days = Annotated[float, typer.Option("--days", min=0.01, max=36500, help="Days for which it is valid.")]
CRLDays = Annotated[
    float, typer.Option("--days", min=0.01, max=3650, help="Days for which the new revocation list is current.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class Reason(StrEnum):
    """Why a certificate is revoked (RFC 5280 5.3.1)."""

    unspecified = "unspecified"
    key_compromise = "keyCompromise"
    affiliation_changed = "affiliationChanged"
    superseded = "superseded"
    cessation_of_operation = "cessationOfOperation"


@app.callback()
def ca() -> None:
    """Issue and revoke certificates for devices: run the authority that a group trusts.

    The authority is a folder of PEM files. Give `root.pem` to all members, and `crl.pem` whenever it changes.

    Example: `slixmpp-mls ca init authority --name "Example Corp."`
    """


@app.command()
def init(
    folder: Folder,
    name: Annotated[str, typer.Option(help="The authority's name, for people.")],
    days: Days = 3650,
    passphrase: Annotated[
        bool,
        typer.Option(help=f"Encrypt the private key; the passphrase is in {VARIABLE}, or asked for."),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Create an authority.

    Example: `slixmpp-mls ca init authority --name "Example Corp." --days 1825`
    """
    secret = _passphrase(new=True) if passphrase else None
    made = CertificateAuthority.create(folder, name, now=_now(), passphrase=secret, lifetime=timedelta(days=days))
    end = made.root.not_valid_after_utc
    if as_json:
        _print_json({"root": str(made.root_file), "crl": str(made.crl_file), "not_after": _iso(end)})
    else:
        console.print(Text(f"{clean(name)} is made; it ends on {end:%Y-%m-%d}."))
        console.print(Text(f"Members of groups are to believe {made.root_file}, and to look at {made.crl_file}."))


@app.command()
def request(
    store: Store,
    suite: Suite = 1,
    key_file: KeyFile = None,
) -> None:
    """Write a certificate request for the device of a store.

    A running device does the same by `mls.certificate_request()`.

    Example: `slixmpp-mls ca request bot.db > bot.csr`
    """
    with _device(store, suite, key_file) as device:
        print(device.certificates.request(CipherSuite.get(suite).signature_scheme).decode(), end="")


@app.command()
def use(
    store: Store,
    chain: Annotated[Path, typer.Argument(metavar="CERTIFICATE", help="PEM: its own first, authorities after it.")],
    suite: Suite = 1,
    key_file: KeyFile = None,
) -> None:
    """Put a certificate into the store of a device; the device uses it from its next start.

    A running device does the same by `await mls.use_certificate(pem)`.

    Example: `slixmpp-mls ca use bot.db bot.pem`
    """
    with _device(store, suite, key_file) as device:
        try:
            device.certificates.use(chain_from_pem(_read(chain)), int(_now().timestamp()))
        except PeerError as error:
            raise UsageError(f"{chain}: {error}") from error
        console.print(Text(f"{device.identity} has its certificate."))


@app.command()
def issue(
    folder: Folder,
    file: Annotated[
        Path | None, typer.Argument(metavar="[REQUEST|-]", help="The request, PEM.", show_default=False)
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="STORE", help="A device's store instead of a request; the certificate is put into it."),
    ] = None,
    expected: Annotated[
        str | None,
        typer.Option("--for", metavar="JID", help="The account, or account/device, that the request must name."),
    ] = None,
    expected_key: Annotated[
        str | None,
        typer.Option("--fingerprint", metavar="HEX", help="The key's fingerprint, as the device's owner sees it."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether the request is genuine.")] = False,
    days: Days = 90,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write the certificate to this file instead of standard output."
        ),
    ] = None,
    suite: Suite = 1,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Certify the key of a device.

    A request does not prove that it comes from the device that it names. Compare the fingerprint with the owner of the
    device (`--fingerprint`), or accept only requests from a place where nobody else can put one (`--yes`).

    Example: `slixmpp-mls ca issue authority bot.csr -o bot.pem`

    Example: `slixmpp-mls ca issue authority - --for bot@example.org --yes < bot.csr > bot.pem`

    Example: `slixmpp-mls ca issue authority --store bot.db`
    """
    if (file is None) == (store is None):
        raise typer.BadParameter("either a request or --store is needed")
    authority = CertificateAuthority(folder)
    if store is None:
        assert file is not None
        _check(wish := Request.parse(_read(file)), expected, expected_key)
        if expected_key is None and not yes:
            _ask(wish)
        issued = _issue(authority, wish, days)
    else:
        with _device(store, suite, key_file) as device:
            scheme = CipherSuite.get(suite).signature_scheme
            _check(wish := Request.parse(device.certificates.request(scheme)), expected, expected_key)
            issued = _issue(authority, wish, days)
            octets = issued.certificate.public_bytes(Encoding.PEM)
            device.certificates.use(chain_from_pem(octets), int(_now().timestamp()))
    octets = issued.certificate.public_bytes(Encoding.PEM)
    if output is not None:
        output.write_bytes(octets)
    if as_json:
        _print_json({**_record(issued), "pem": octets.decode()})
    elif output is not None or store is not None:
        console.print(Text(f"{issued.client} is certified until {issued.certificate.not_valid_after_utc:%Y-%m-%d}."))
    else:
        print(octets.decode(), end="")


def _check(wish: Request, expected: str | None, expected_key: str | None) -> None:
    if expected is not None and expected not in wish.client.addresses:
        raise UsageError(f"the request is {wish.client}'s, not {expected}'s")
    if expected_key is not None and "".join(expected_key.split()).lower() != key_identifier(wish.key).hex():
        raise UsageError("the request is for a key with another fingerprint")


def _ask(wish: Request) -> None:
    errors.print(Text(f"device       {wish.client}\nfingerprint  {fingerprint(wish.key)}"))
    if not sys.stdin.isatty():
        raise UsageError("no terminal to ask whether this request is genuine: give --fingerprint or --yes")
    typer.confirm("Is this request from that device?", abort=True, err=True)


def _issue(authority: CertificateAuthority, wish: Request, days: float) -> Issued:
    return authority.issue(wish, now=_now(), passphrase=_secret_of(authority), lifetime=timedelta(days=days))


@app.command("list")
def list_command(
    folder: Folder,
    everything: Annotated[bool, typer.Option("--all", help="Include those that are no longer valid.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the issued certificates, their devices and their ends.

    Exit code 1 if there are none.

    Example: `slixmpp-mls ca list authority --all`
    """
    now = _now()
    found = [each for each in CertificateAuthority(folder).issued() if everything or each.state(now) == "valid"]
    if as_json:
        _print_json([_record(each) for each in found])
    elif found:
        table = Table("device", "fingerprint", "valid until", "state", "serial number")
        for each in found:
            state = each.state(now)
            table.add_row(
                Text(clean(str(each.client)), overflow="fold"),
                Text(fingerprint(each.key), "cyan"),
                f"{each.certificate.not_valid_after_utc:%Y-%m-%d}",
                Text(state, {"valid": "green", "revoked": "red"}.get(state, "dim")),
                Text(each.serial, overflow="fold"),
            )
        console.print(table)
    else:
        console.print(Text("No valid certificates.", "yellow"))
    if not found:
        raise typer.Exit(1)


@app.command()
def revoke(
    folder: Folder,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Accounts, devices (account/device) or serial numbers.")
    ],
    reason: Annotated[Reason, typer.Option(help="The reason.")] = Reason.unspecified,
    days: CRLDays = 7,
    as_json: AsJson = False,
) -> None:
    """Revoke certificates, and sign a new revocation list.

    Example: `slixmpp-mls ca revoke authority bob@example.org/4e1b0f6a92c35d78 --reason keyCompromise`
    """
    authority = CertificateAuthority(folder)
    valid = [each for each in authority.issued() if each.state(_now()) in ("valid", "not-yet-valid")]
    chosen: list[Issued] = []
    for name in names:
        named = [each for each in valid if name in (*each.client.addresses, each.serial)]
        if not named:
            raise UsageError(f"{name} has no valid certificate of this authority")
        chosen += [each for each in named if each not in chosen]
    crl = authority.revoke(
        [each.certificate for each in chosen],
        now=_now(),
        reason=x509.ReasonFlags(reason.value),
        passphrase=_secret_of(authority),
        lifetime=timedelta(days=days),
    )
    if as_json:
        _print_json({**_list_record(authority, crl), "now_revoked": [each.serial for each in chosen]})
        return
    for each in chosen:
        console.print(Text(f"{each.client}: {each.serial} is revoked."))
    _print_list(authority, crl)


@app.command()
def crl(folder: Folder, days: CRLDays = 7, as_json: AsJson = False) -> None:
    """Sign the revocation list again, so that it stays current; for a daily timer.

    Example: `MLS_CA_PASSPHRASE=... slixmpp-mls ca crl authority --days 3`
    """
    authority = CertificateAuthority(folder)
    signed = authority.sign_crl(now=_now(), passphrase=_secret_of(authority), lifetime=timedelta(days=days))
    if as_json:
        _print_json(_list_record(authority, signed))
    else:
        _print_list(authority, signed)


def _print_list(authority: CertificateAuthority, signed: x509.CertificateRevocationList) -> None:
    until = f"{signed.next_update_utc:%Y-%m-%d %H:%M} UTC"
    console.print(Text(f"{authority.crl_file} revokes {len(signed)}, and is current until {until}."))


def _list_record(authority: CertificateAuthority, signed: x509.CertificateRevocationList) -> dict[str, Any]:
    assert signed.next_update_utc is not None
    return {"crl": str(authority.crl_file), "revoked": len(signed), "next_update": _iso(signed.next_update_utc)}


def _record(each: Issued) -> dict[str, Any]:
    return {
        "account": each.client.account,
        "device": each.client.device,
        "fingerprint": fingerprint(each.key),
        "serial": each.serial,
        "not_before": _iso(each.certificate.not_valid_before_utc),
        "not_after": _iso(each.certificate.not_valid_after_utc),
        "revoked": None if each.revoked is None else _iso(each.revoked),
        "state": each.state(_now()),
    }


# --- what is read ------------------------------------------------------------------------------


def _now() -> datetime:
    return datetime.now(UTC)


def _iso(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")


def _print_json(value: object) -> None:
    console.print_json(json.dumps(value))


def _read(path: Path) -> bytes:
    with sys.stdin.buffer if str(path) == "-" else path.open("rb") as source:
        return source.read(MAX_FILE + 1)


def _secret_of(authority: CertificateAuthority) -> bytes | None:
    return _passphrase() if authority.needs_passphrase else None


def _passphrase(*, new: bool = False) -> bytes:
    text = os.environ.get(VARIABLE)
    if text is None:
        if not sys.stdin.isatty():
            raise UsageError(f"no passphrase: set {VARIABLE}{', or give --no-passphrase' if new else ''}")
        text = getpass.getpass("Passphrase of the authority: ")
        if new and getpass.getpass("Again: ") != text:
            raise UsageError("the two passphrases differ; nothing has changed")
    if not text:
        raise UsageError("an empty passphrase")
    return text.encode()


@contextmanager
def _device(path: Path, suite: int, key_file: Path | None) -> Iterator[Device]:
    """The device that lives in a store."""
    if not path.exists():
        raise UsageError(f"there is no store {path}")
    store = SQLiteStore(path, None, secret=secret_of(key_file) if is_encrypted(path) else None)
    try:
        yield Device(store, settings=KeyPackageSettings(suites=(suite,)))
    finally:
        store.close()
