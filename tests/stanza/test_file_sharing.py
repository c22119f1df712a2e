"""Encrypted files in messages (XEP-0446, 0447, 0448): building, reading, and what hostile senders write."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slixmpp import ClientXMPP
from slixmpp.stanza import Message

from slixmpp_mls.errors import MalformedError
from slixmpp_mls.stanza.file_sharing import (
    HASHES,
    MAX_FILE_SIZE,
    MAX_FILES,
    EncryptedSource,
    FileMetadata,
    FileSharing,
    Thumbnail,
    plain_name,
    read_files,
)
from slixmpp_mls.stanza.xml import parse_xml, serialize, to_stdlib

SHA = hashlib.sha256(b"plain").digest()
SHA64 = base64.b64encode(SHA).decode()
KEY, IV = bytes(range(32)), bytes(range(12))
URL = "https://files.example/x"
SOURCE = EncryptedSource(KEY, IV, (URL,))
FULL = FileSharing(
    FileMetadata(
        3_032_449,
        {"sha-256": SHA, "blake2b-512": bytes(64)},
        name="heath.jpg",
        media_type="image/jpeg",
        description="The heath,\nat dusk & later",
        date=datetime(2026, 11, 29, 16, 30, tzinfo=UTC),
        width=4096,
        height=2160,
        length=12,
        thumbnails=(Thumbnail("image/thumbhash", b"\x01\x02", 32, 17),),
    ),
    (SOURCE,),
    "inline",
    "f1",
)


def element(file: str = "", sources: str | None = None, attributes: str = "", **parts: str) -> bytes:
    """A <file-sharing/> by hand: `file` is added to what is required, or its parts replaced (size, hash)."""
    size = parts.get("size", "<size>5</size>")
    hash_ = parts.get("hash", f"<hash xmlns='urn:xmpp:hashes:2' algo='sha-256'>{SHA64}</hash>")
    if sources is None:
        sources = encrypted()
    return (
        f"<file-sharing xmlns='urn:xmpp:sfs:0' {attributes}><file xmlns='urn:xmpp:file:metadata:0'>{size}{hash_}{file}"
        f"</file><sources>{sources}</sources></file-sharing>"
    ).encode()


def encrypted(
    cipher: str = "urn:xmpp:ciphers:aes-256-gcm-nopadding:0",
    key: str = f"<key>{base64.b64encode(KEY).decode()}</key>",
    iv: str = f"<iv>{base64.b64encode(IV).decode()}</iv>",
    urls: str = f"<url-data xmlns='http://jabber.org/protocol/url-data' target='{URL}'/>",
) -> str:
    return (
        f"<encrypted xmlns='urn:xmpp:esfs:0' cipher='{cipher}'>{key}{iv}"
        f"<sources xmlns='urn:xmpp:sfs:0'>{urls}</sources></encrypted>"
    )


def read(data: bytes) -> FileSharing:
    return FileSharing.read(parse_xml(data, 1 << 16))


def test_the_form_on_the_wire() -> None:
    """XEP-0448, "Sharing a file": names, namespaces, nesting."""
    small = FileSharing(FileMetadata(5, {"sha-256": SHA}, name="a.txt"), (SOURCE,), "attachment")
    assert serialize(small.to_lxml()).decode() == (
        '<file-sharing xmlns="urn:xmpp:sfs:0" disposition="attachment"><file xmlns="urn:xmpp:file:metadata:0">'
        f'<name>a.txt</name><size>5</size><hash xmlns="urn:xmpp:hashes:2" algo="sha-256">{SHA64}</hash></file>'
        '<sources><encrypted xmlns="urn:xmpp:esfs:0" cipher="urn:xmpp:ciphers:aes-256-gcm-nopadding:0">'
        "<key>AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=</key><iv>AAECAwQFBgcICQoL</iv>"
        '<sources xmlns="urn:xmpp:sfs:0"><url-data xmlns="http://jabber.org/protocol/url-data" '
        f'target="{URL}"/></sources></encrypted></sources></file-sharing>'
    )


def test_all_of_it_comes_back_from_either_library() -> None:
    written = FULL.to_lxml()
    assert FileSharing.read(written) == FULL
    assert FileSharing.read(to_stdlib(written)) == FULL
    assert read(serialize(written)) == FULL


def test_slixmpp_reads_what_we_write() -> None:
    """Its stanza classes for XEP-0446, 0447, 0300 and 0264 are what other programs use."""
    client = ClientXMPP("a@example", "x")
    for plugin in ("xep_0446", "xep_0447"):
        client.register_plugin(plugin)
    xml = ElementTree.Element("{jabber:client}message")
    xml.append(to_stdlib(FULL.to_lxml()))
    sharing = Message(stream=client, xml=xml)["sfs"]  # type: ignore[no-untyped-call]
    assert sharing["disposition"] == "inline"
    file = sharing["file"]
    assert (file["name"], file["size"], file["media-type"]) == ("heath.jpg", 3_032_449, "image/jpeg")
    assert (file["width"], file["height"], file["date"]) == (4096, 2160, FULL.file.date)
    assert file["hash"]["algo"] in FULL.file.hashes
    assert file["thumbnail"]["uri"] == "data:image/thumbhash;base64,AQI="


def test_nothing_secret_in_what_may_be_logged() -> None:
    text = repr(FULL)
    assert repr(KEY) not in text
    assert repr(IV) not in text
    assert URL not in text


_texts = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn", "Zl", "Zp"]), max_size=80)
_hashes = st.dictionaries(st.sampled_from(sorted(HASHES)), st.just(b""), min_size=1).flatmap(
    lambda names: st.fixed_dictionaries(
        {name: st.binary(min_size=(n := HASHES[name]().digest_size), max_size=n) for name in names}
    )
)
_numbers = st.none() | st.integers(0, 2**32 - 1)
_files = st.builds(
    FileMetadata,
    st.integers(0, MAX_FILE_SIZE),
    _hashes,
    name=_texts.map(plain_name),
    media_type=st.none() | st.sampled_from(["image/png", "application/vnd.a+xml"]),
    description=st.none() | _texts,
    width=_numbers,
    height=_numbers,
    length=_numbers,
    thumbnails=st.lists(
        st.builds(Thumbnail, st.just("image/thumbhash"), st.binary(min_size=1, max_size=40), _numbers, _numbers),
        max_size=2,
    ).map(tuple),
)
_sources = st.builds(
    EncryptedSource,
    st.binary(min_size=32, max_size=32) | st.binary(min_size=16, max_size=16),
    st.binary(min_size=12, max_size=12),
    st.lists(st.integers(0, 99).map(lambda n: f"https://example/{n}"), min_size=1, max_size=3).map(tuple),
)
_sharings = st.builds(
    FileSharing, _files, st.lists(_sources, max_size=3).map(tuple), st.sampled_from([None, "inline", "attachment"])
)


@given(_sharings)
@settings(deadline=None)
def test_every_file_comes_back(sharing: FileSharing) -> None:
    empty_is_none = sharing.file.description == ""
    back = read(serialize(sharing.to_lxml()))
    if empty_is_none:
        assert back.file.description is None
    else:
        assert back == sharing


@given(st.text(max_size=300))
def test_a_name_is_never_a_path(name: str) -> None:
    plain = plain_name(name)
    if plain is not None:
        assert "/" not in plain
        assert "\\" not in plain
        assert "\0" not in plain
        assert plain not in ("", ".", "..")
        assert plain_name(plain) == plain


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("../../.ssh/authorized_keys", "authorized_keys"),
        ("C:\\Windows\\evil.dll", "evil.dll"),
        ("..", None),
        ("a/..", None),
        ("  ", None),
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("a\tb\nc", "abc"),
        ("👩‍👧 family.jpg", "👩‍👧 family.jpg"),  # joiners are part of writing
        ("x" * 300, "x" * 255),
    ],
)
def test_names_that_mislead(name: str, plain: str | None) -> None:
    assert plain_name(name) == plain


HASH = f"<hash xmlns='urn:xmpp:hashes:2' algo='sha-256'>{SHA64}</hash>"


@pytest.mark.parametrize(
    "data",
    [
        element(size=""),  # XEP-0448, "Sharing a file": the size is required
        element(size="<size>5</size><size>6</size>"),
        element(size="<size>-1</size>"),
        element(size="<size>05</size>"),
        element(size=f"<size>{MAX_FILE_SIZE + 1}</size>"),
        element(size="<size>99999999999999999999999999</size>"),
        element(hash=""),  # likewise, a hash
        element(hash=HASH + HASH),
        element(hash=HASH.replace(SHA64, "AAAA")),
        element(hash=HASH.replace("sha-256", "sha-1")),  # proves nothing, so there is none
        element(hash=HASH.replace("sha-256", "md5")),
        element(hash=HASH * 17),
        element("<name>a</name><name>b</name>"),
        element("<media-type>text</media-type>"),
        element("<media-type>text/html&lt;script></media-type>"),
        element(f"<desc>{'x' * 5000}</desc>"),
        element("<width>4294967296</width>"),
        element("<date>yesterday</date>"),
        element(sources=encrypted(key="")),
        element(sources=encrypted(iv="")),
        element(sources=encrypted(key="<key>AAAA</key>")),
        element(sources=encrypted(key=f"<key>{base64.b64encode(bytes(16)).decode()}</key>")),  # AES-256 by its name
        element(sources=encrypted(iv=f"<iv>{base64.b64encode(bytes(16)).decode()}</iv>")),
        element(sources=encrypted(iv="<iv>not base64!!!!!</iv>")),
        element(sources=encrypted(urls="<url-data xmlns='http://jabber.org/protocol/url-data' target='http://a/'/>")),
        element(sources=encrypted(urls="<url-data xmlns='http://jabber.org/protocol/url-data' target='file:///x'/>")),
        element(sources=encrypted(urls="<url-data xmlns='http://jabber.org/protocol/url-data'/>")),
        element(sources=encrypted() * 17),
        element(attributes=f"id='{'x' * 300}'"),
        b"<file-sharing xmlns='urn:xmpp:sfs:0'/>",
        b"<file-sharing xmlns='urn:xmpp:sfs:1'><file/></file-sharing>",
        b"<file xmlns='urn:xmpp:file:metadata:0'/>",
    ],
)
def test_what_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        read(data)


def test_what_is_ignored() -> None:
    """Other ciphers, other kinds of sources, other hashes beside a good one, unknown elements (RFC 6120 8.4)."""
    found = read(
        element(
            "<future>1</future><hash xmlns='urn:xmpp:hashes:2' algo='sha-1'>AAAA</hash>"
            "<media-type>Text/Plain; charset=utf-8</media-type>",
            sources=encrypted("urn:xmpp:ciphers:aes-256-cbc-pkcs7:0")
            + "<jinglepub xmlns='urn:xmpp:jinglepub:1'/>"
            + f"<url-data xmlns='http://jabber.org/protocol/url-data' target='{URL}'/>"
            + encrypted(urls="<jinglepub xmlns='urn:xmpp:jinglepub:1'/>")
            + encrypted(),
            attributes="disposition='sideways'",
        )
    )
    assert found == FileSharing(FileMetadata(5, {"sha-256": SHA}, media_type="text/plain"), (SOURCE,))
    assert read(element(sources="")).sources == ()


def test_thumbnails_that_are_not_in_the_message_are_not_wanted() -> None:
    """To fetch one would tell its server who reads."""
    thumbnail = "<thumbnail xmlns='urn:xmpp:thumbs:1' uri='{}' media-type='image/png' width='{}'/>"
    uris = [
        "https://spy.example/pixel.png",
        "cid:sha1+ffd7@bob.xmpp.org",
        "data:text/html;base64,AAAA",
        "data:image/png;base64,A",
        "data:image/png;base64," + "AAAA" * 4000,
        "data:image/png;base64,",
        "",
    ]
    bad = "".join(thumbnail.format(uri, "1") for uri in uris) + thumbnail.format("data:image/png;base64,AAAA", "-1")
    assert read(element(bad)).file.thumbnails == ()
    good = thumbnail.format("data:image/THUMBHASH;base64,AQI=", "8")
    assert read(element(bad + good)).file.thumbnails == (Thumbnail("image/thumbhash", b"\x01\x02", 8),)


def test_one_bad_file_does_not_spoil_the_rest() -> None:
    body = ElementTree.fromstring("<body xmlns='jabber:client'>look</body>")
    good = to_stdlib(FULL.to_lxml())
    bad = ElementTree.fromstring(element(size=""))
    files, wrong = read_files([body, bad, good])
    assert files == (FULL,)
    assert len(wrong) == 1
    files, wrong = read_files([good] * (MAX_FILES + 1))
    assert len(files) == MAX_FILES
    assert len(wrong) == 1
