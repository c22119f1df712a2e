"""certificates.json: X.509 credentials, whom they name, and which of them a root and its revocation list vouch for.

The certificates are the same in each run: keys come from fixed randomness, and ECDSA signatures are deterministic
(RFC 6979).  What is right is said here, not asked of the code that the vectors are to test.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

__all__ = ["certificates"]

START = datetime(2026, 10, 1, tzinfo=UTC)
NOW = START + timedelta(days=1)
DAY = timedelta(days=1)
XMPP_ADDR = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5")
IM_URI = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.40")
SERVER = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.1")
ACCOUNT, DEVICE = "hag66@shakespeare.lit", "4e1b0f6a92c35d78"
NAMES = (ACCOUNT, f"{ACCOUNT}/{DEVICE}")
SIGNS = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
AGREES = x509.KeyUsage(False, False, False, False, True, False, False, False, False)
CERTIFIES = x509.KeyUsage(False, False, False, False, False, True, True, False, False)


def number(what: str) -> int:
    return int.from_bytes(sha256(what.encode()).digest()[:19], "big")


def curve_key(what: str, curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(number(what), curve)


KEYS: dict[int, Any] = {
    1: ed25519.Ed25519PrivateKey.from_private_bytes(sha256(b"device").digest()),
    2: curve_key("device", ec.SECP256R1()),
    4: ed448.Ed448PrivateKey.from_private_bytes(sha256(b"device").digest() + bytes(25)),
    5: curve_key("device", ec.SECP521R1()),
    7: curve_key("device", ec.SECP384R1()),
}
SCHEMES = {1: 0x0807, 2: 0x0403, 4: 0x0808, 5: 0x0603, 7: 0x0503}


class Authority:
    """One with a certificate of its own making, or of another one's."""

    def __init__(self, name: str, above: Authority | None = None, **options: Any) -> None:
        self.name = name
        self.key = curve_key(name, ec.SECP256R1())
        options = {"ca": True, "usage": CERTIFIES, "purpose": None, "names": (), "subject": name, **options}
        self.certificate = (above or self).certify(self.key.public_key(), f"{name} itself", **options)

    def certify(
        self,
        key: Any,
        what: str,
        *,
        names: Sequence[str | bytes] = NAMES,
        ca: bool = False,
        usage: x509.KeyUsage | None = SIGNS,
        purpose: x509.ObjectIdentifier | None = IM_URI,
        start: datetime = START,
        days: int = 30,
        subject: str = "",
    ) -> x509.Certificate:
        builder = x509.CertificateBuilder(_name(self.name), _name(subject), key, number(what))
        builder = builder.not_valid_before(start).not_valid_after(start + days * DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        if usage is not None:
            builder = builder.add_extension(usage, critical=True)
        if names:
            others = [x509.OtherName(XMPP_ADDR, each if isinstance(each, bytes) else _utf8(each)) for each in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=True)
        if purpose is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        return builder.sign(self.key, SHA256(), ecdsa_deterministic=True)

    def list_of(self, *revoked: x509.Certificate) -> x509.CertificateRevocationList:
        builder = x509.CertificateRevocationListBuilder().issuer_name(_name(self.name))
        builder = builder.last_update(START).next_update(START + 7 * DAY)
        builder = builder.add_extension(x509.CRLNumber(1), critical=False)
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each.serial_number).revocation_date(START)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, SHA256(), ecdsa_deterministic=True)


def certificates() -> dict[str, Any]:
    root, stranger = Authority("root", days=3650), Authority("stranger")
    key = KEYS[1].public_key()

    def own(what: str, authority: Authority = root, **options: Any) -> x509.Certificate:
        return authority.certify(key, what, **options)

    named = [[own("in order")], [own("in the other order", names=NAMES[::-1])]]
    named += [[root.certify(each.public_key(), f"suite {suite}")] for suite, each in KEYS.items() if suite != 1]
    named += [[own("of a stranger", stranger), stranger.certificate], [own("long") for _ in range(6)]]
    not_named: list[tuple[str, Sequence[x509.Certificate | bytes]]] = [
        ("no certificates", []),
        ("seven certificates", [own("long") for _ in range(7)]),
        ("a certificate of more than 8192 octets", [own("in order"), bytes(8193)]),
        ("no DER", [b"garbage"]),
        ("no names", [own("nobody", names=())]),
        ("the account only", [own("account", names=NAMES[:1])]),
        ("the device only", [own("device", names=NAMES[1:])]),
        ("another account's device", [own("mixed", names=(NAMES[0], f"romeo@montague.lit/{DEVICE}"))]),
        ("a third name", [own("three", names=(*NAMES, "romeo@montague.lit"))]),
        ("a capital", [own("capital", names=("Hag66@shakespeare.lit", f"Hag66@shakespeare.lit/{DEVICE}"))]),
        ("a name that is an IA5String", [own("ia5", names=(b"\x16" + _utf8(NAMES[0])[1:], NAMES[1]))]),
    ]
    below = Authority("below", root)
    web = Authority("web", root, purpose=SERVER)
    no_authority = Authority("no authority", root, ca=False)
    revoked = own("revoked")
    other = KEYS[2].public_key()
    judged: list[tuple[str, str, int, Sequence[x509.Certificate], datetime]] = [
        ("valid", "as it should be", 1, [own("in order")], NOW),
        *(("valid", "another suite", suite, [root.certify(each.public_key(), f"suite {suite}")], NOW)
          for suite, each in KEYS.items() if suite != 1),
        ("valid", "for any purpose", 1, [own("no purpose", purpose=None, usage=None)], NOW),
        ("valid", "the root may be there", 1, [own("in order"), root.certificate], NOW),
        ("valid", "the last second", 1, [own("short", days=2)], START + 2 * DAY),
        ("invalid", "expired", 1, [own("short", days=2)], START + 2 * DAY + timedelta(seconds=1)),
        ("invalid", "not valid yet", 1, [own("in order")], START - timedelta(seconds=1)),
        ("invalid", "revoked", 1, [revoked], NOW),
        ("invalid", "revoked, by a list that is outdated", 1, [revoked], START + 8 * DAY),
        ("unknown", "the list is outdated", 1, [own("in order")], START + 8 * DAY),
        ("unknown", "no list of an authority in the path", 1, [own("deep", below), below.certificate], NOW),
        ("invalid", "an authority is missing", 1, [own("deep", below)], NOW),
        ("invalid", "a stranger's", 1, [own("of a stranger", stranger), stranger.certificate], NOW),
        ("invalid", "another key than the leaf's", 1, [root.certify(other, "other key")], NOW),
        ("invalid", "an authority's own", 1, [own("ca", ca=True)], NOW),
        ("invalid", "a key for agreement", 1, [own("agreement", usage=AGREES)], NOW),
        ("invalid", "for servers", 1, [own("server", purpose=SERVER)], NOW),
        ("invalid", "by an authority for servers", 1, [own("web", web), web.certificate], NOW),
        ("invalid", "by who is no authority", 1, [own("fake", no_authority), no_authority.certificate], NOW),
    ]  # fmt: skip
    return {
        "root": _hex(root.certificate),
        "revocation_list": root.list_of(revoked).public_bytes(Encoding.DER).hex(),
        "named": [
            {"certificates": [_hex(each) for each in chain], "account": ACCOUNT, "device": DEVICE, **_key(chain[0])}
            for chain in named
        ],
        "not_named": [{"certificates": [_hex(each) for each in chain], "reason": why} for why, chain in not_named],
        "judged": [
            {
                "answer": answer,
                "reason": why,
                "cipher_suite": suite,
                "signature_key": _public(KEYS[suite].public_key()).hex(),
                "certificates": [_hex(each) for each in chain],
                "time": int(when.timestamp()),
            }
            for answer, why, suite, chain, when in judged
        ],
    }


def _key(certificate: x509.Certificate) -> dict[str, Any]:
    public = _public(certificate.public_key())
    suite = next(suite for suite, key in KEYS.items() if _public(key.public_key()) == public)
    return {"signature_scheme": SCHEMES[suite], "signature_key": public.hex()}


def _public(key: Any) -> bytes:
    """As leaves carry it (RFC 9420 5.1.1)."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    octets: bytes = key.public_bytes_raw()
    return octets


def _hex(certificate: x509.Certificate | bytes) -> str:
    octets = certificate if isinstance(certificate, bytes) else certificate.public_bytes(Encoding.DER)
    return octets.hex()


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else [])


def _utf8(text: str) -> bytes:
    """A UTF8String in DER, shorter than 128 octets."""
    octets = text.encode()
    assert len(octets) < 128
    return bytes((0x0C, len(octets))) + octets
