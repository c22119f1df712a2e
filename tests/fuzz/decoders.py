"""Decoders: TLS structures, trees, plaintexts, XML."""

from __future__ import annotations

from collections.abc import Iterator

from lxml import etree

from slixmpp_mls import stanza
from slixmpp_mls.errors import UsageError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.schedule.message_protection import SenderData, unprotect_private
from slixmpp_mls.mls.schedule.secret_tree import RatchetKind, SecretTree
from slixmpp_mls.mls.structures.framing import (
    ContentType,
    FramedContent,
    MLSMessage,
    PrivateMessage,
    PublicMessage,
    content_select,
    content_type_of,
)
from slixmpp_mls.mls.structures.parent_node import RatchetTreeExtension
from slixmpp_mls.mls.tls import Struct
from slixmpp_mls.mls.tree.ratchet_tree import RatchetTree
from slixmpp_mls.mls.xml_form import NAMESPACE, from_xml, structures, to_xml
from slixmpp_mls.stanza import consistency, elements, file_sharing, sce, trust_message
from slixmpp_mls.stanza.locations import CommitPlace, WelcomePlace
from slixmpp_mls.stanza.xml import AnyElement, parse_xml, serialize, split_tag, to_lxml

from . import seeds
from .groups import ALICE
from .registry import target

LIMIT = 1 << 20  # octets of XML; libFuzzer's own limit is lower


# --- TLS -----------------------------------------------------------------------------------------


def _messages() -> Iterator[bytes]:
    yield from (value.encode() for value in seeds.generated(MLSMessage, 100))
    yield from (data for cls, data in seeds.official() if cls is MLSMessage)


@target(_messages)
def mls_message(data: bytes) -> None:
    message = MLSMessage.decode(data)
    assert message.encode() == data
    hash(message)


_CLASSES = tuple(structures().values())


def _each_structure() -> Iterator[bytes]:
    for number, cls in enumerate(_CLASSES):
        yield from (bytes([number]) + value.encode() for value in seeds.generated(cls, 5))
    for cls, data in seeds.official(count=5):
        yield bytes([_CLASSES.index(cls)]) + data


@target(_each_structure)
def structure_to_xml(data: bytes) -> None:
    """Any structure (the first octet chooses which), to XML and back."""
    if data:
        value = _CLASSES[data[0] % len(_CLASSES)].decode(data[1:])
        assert value.encode() == data[1:]
        again = from_xml(parse_xml(serialize(to_xml(value)), LIMIT))
        assert again == value
        assert again.encode() == data[1:]


_SUITE = CipherSuite.get(1)


def _trees() -> Iterator[bytes]:
    yield ALICE.tree.encode()  # the keys in generated trees are random, and few are keys
    yield from (value.encode() for value in seeds.generated(RatchetTreeExtension, 100))
    yield from (data for _, data in seeds.official("ratchet_tree", count=100))


@target(_trees)
def ratchet_tree(data: bytes) -> None:
    tree = RatchetTree.decode(_SUITE, data)
    assert tree.encode() == data
    assert RatchetTree.restore(_SUITE, tree.pieces()).tree_hash() == tree.tree_hash()


_SECRETS = SecretTree.create(_SUITE, bytes(32), 1)
_NO_GUARD = bytes(4)


def _plaintexts() -> Iterator[bytes]:
    for value in seeds.generated(FramedContent, 100):
        kind = content_type_of(value.content)
        plaintext = bytearray([kind - 1])
        content_select.write_variant(plaintext, value.content)
        yield bytes(plaintext) + (b"\1s\1t" if kind is ContentType.COMMIT else b"\1s") + bytes(10)


@target(_plaintexts)
def private_content(data: bytes) -> None:
    """What a member may have encrypted in a PrivateMessage (the first octet chooses the type)."""
    kind = ContentType(1 + data[0] % 3 if data else 1)
    ratchet = RatchetKind.APPLICATION if kind is ContentType.APPLICATION else RatchetKind.HANDSHAKE
    key, _ = _SECRETS.next(0, ratchet)
    aad = PrivateMessage(b"g", 1, kind, b"a", b"", b"").encode()[:-2]  # PrivateContentAAD is its beginning
    ciphertext = _SUITE.aead_seal(key.key, key.nonce, aad, data[1:])
    message = PrivateMessage(b"g", 1, kind, b"a", b"", ciphertext)
    found, _ = unprotect_private(_SUITE, message, SenderData(0, 0, _NO_GUARD), _SECRETS)
    again = bytearray()
    content_select.write_variant(again, found.content.content)
    assert data[1:].startswith(again)


# --- XML -----------------------------------------------------------------------------------------


def _documents() -> Iterator[bytes]:
    for cls in _CLASSES:
        yield from (serialize(to_xml(value)) for value in seeds.generated(cls, 5))
    for cls, data in seeds.official(count=5):
        yield serialize(to_xml(cls.decode(data)))


def _document_words() -> Iterator[bytes]:
    yield NAMESPACE.encode()
    for cls in _CLASSES:
        yield f"<{cls.__name__}".encode()
        yield from (f"<{field.name}>".encode() for field in cls.codec.fields)


@target(_documents, _document_words)
def xml_form(data: bytes) -> None:
    value: Struct = from_xml(parse_xml(data, LIMIT))
    octets = value.encode()
    assert type(value).decode(octets) == value
    assert from_xml(to_xml(value)) == value


def _stanzas() -> Iterator[bytes]:
    client = "jabber:client"
    for name, wire in (("commit", PrivateMessage), ("proposal", PublicMessage), ("application", PrivateMessage)):
        for body in seeds.generated(wire, 20):
            place = body if isinstance(body, PrivateMessage) else body.content
            cls = {"commit": elements.Commit, "proposal": elements.Proposal, "application": elements.Application}[name]
            try:
                element = cls(group=place.group_id, epoch=place.epoch, data=MLSMessage.wrap(body))
            except UsageError:  # a group id that XMPP does not allow
                continue
            yield element.to_bytes()
            message = etree.Element(f"{{{client}}}message", nsmap={None: client})
            message.append(element.to_lxml())
            yield serialize(message)


def _stanza_words() -> Iterator[bytes]:
    yield elements.NS.encode()
    kinds = (elements.Commit, elements.Welcome, elements.GroupInfo, elements.Invitation, elements.KeyPackage)
    for cls in (*kinds, elements.RetiredDevice):
        yield f"<{cls.NAME}".encode()
        yield from (f" {field.name}=''".encode() for field in elements.spelled_fields(cls))


@target(_stanzas, _stanza_words)
def stanza_element(data: bytes) -> None:
    """The elements of the protocol, alone or in a message, and the check of their attributes."""
    root = parse_xml(data, LIMIT)
    found = stanza.payloads(root) if split_tag(root)[1] == "message" else [stanza.parse(root)]
    for element in found:
        assert stanza.parse(element.to_bytes()) == element
        assert stanza.parse(element.to_stdlib()) == element
        if isinstance(element, elements.CommitLocation):
            CommitPlace.decode(element.data)
        elif isinstance(element, elements.WelcomeLocation):
            WelcomePlace.read(element.data)
        elif isinstance(
            element,
            elements.Commit
            | elements.Proposal
            | elements.Application
            | elements.Welcome
            | elements.GroupInfo
            | elements.KeyPackage,
        ):
            assert consistency.check(element).encode() == element.data


def _canonical(element: AnyElement) -> bytes:
    return etree.tostring(to_lxml(element), method="c14n2")


_PROFILE = sce.Profile(frozenset({sce.Affix.FROM, sce.Affix.TIME}))


def _envelopes() -> Iterator[bytes]:
    for content in ("", "<body xmlns='jabber:client'>hi</body>", "<store xmlns='urn:xmpp:hints'/>"):
        yield (
            f"<envelope xmlns='{sce.NS}'><content>{content}</content><time stamp='2026-10-02T12:30:00Z'/>"
            "<to jid='a@example'/><from jid='b@example'/><rpad>x</rpad></envelope>"
        ).encode()


@target(_envelopes, lambda: (b"<!DOCTYPE", b"<?a b?>", b"<!--", b"-->", b"&#", sce.NS.encode()))
def sce_envelope(data: bytes) -> None:
    envelope = sce.Envelope.open(data, _PROFILE)
    again = sce.Envelope.open(envelope.seal(_PROFILE), _PROFILE)
    assert [_canonical(one) for one in again.content] == [_canonical(one) for one in envelope.content]
    assert (again.from_, again.to, again.time) == (envelope.from_, envelope.to, envelope.time)


_IDENTIFIERS = (bytes(32), bytes(range(32)))
_TRUST = trust_message.TrustMessage((trust_message.KeyOwner("a@b.example", _IDENTIFIERS[:1], _IDENTIFIERS[1:]),))


@target(lambda: [serialize(_TRUST.to_lxml())], lambda: (b"<trust>", b"<distrust>", b"<key-owner jid=''>"))
def trust_message_element(data: bytes) -> None:
    """Trust messages (XEP-0434) in the content of envelopes."""
    message = trust_message.TrustMessage.read(parse_xml(data, LIMIT))
    if message is not None:
        assert trust_message.TrustMessage.read(message.to_lxml()) == message


@target(lambda: [_TRUST.owners[0].to_uri().encode()], lambda: (b";trust=", b";distrust=", b"%C3%A4"))
def trust_message_uri(data: bytes) -> None:
    owner = trust_message.KeyOwner.from_uri(data.decode(errors="replace"))
    assert trust_message.KeyOwner.from_uri(owner.to_uri()) == owner


_FILE = file_sharing.FileSharing(
    file_sharing.FileMetadata(5, {"sha-256": bytes(32)}, name="a.txt", media_type="text/plain", description="b"),
    (file_sharing.EncryptedSource(bytes(32), bytes(12), ("https://example/x",)),),
    "inline",
)


@target(
    lambda: [serialize(_FILE.to_lxml())],
    lambda: (b"<encrypted ", b"<thumbnail uri='data:image/png;base64,", b"<width>", b"<date>", b"algo='sha-512'"),
)
def file_sharing_element(data: bytes) -> None:
    """Encrypted files (XEP-0447, 0448) in the content of envelopes."""
    sharing = file_sharing.FileSharing.read(parse_xml(data, LIMIT))
    assert file_sharing.FileSharing.read(sharing.to_lxml()) == sharing
