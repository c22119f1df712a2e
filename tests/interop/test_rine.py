"""A post-quantum suite with mls-rs: the wheel ``rine-mls`` 0.1.1 (mls-rs 0.55.2, with an X-Wing KEM in Rust).

Its suite is none of draft-ietf-mls-pq-ciphersuites: X-Wing, HKDF-SHA256, ChaCha20-Poly1305, SHA-256 and Ed25519 under
the private number 0xF057, which is its number of the KEM in HPKE, too.  But our suites are tables: the same one is
composed here of our parts, the X-Wing of 0xF001, 0xF002 and 0xF009 among them.  The wheel shows neither secrets nor
trees, so agreement is shown by what both can read afterwards, and by the confirmation tags that each verifies
(RFC 9420 8.1).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest
from pyhpke import AEADId

from slixmpp_mls.mls.crypto import cipher_suite
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.crypto.post_quantum import MLKEM768_X25519
from slixmpp_mls.mls.registry import CipherSuiteId
from slixmpp_mls.mls.tree.leaf_creation import capabilities

from .conftest import absent
from .our_peer import OurClient, OurGroup, OurPeer
from .peers import Add, Refused

pytestmark = pytest.mark.interop

rine: Any = import_module("rine_mls") if find_spec("rine_mls") else None
SUITE = 0xF057
APPLICATION = b"\x04"  # what the wheel puts before the MLSMessage of an application message


@pytest.fixture(autouse=True)
def composed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel's cipher suite, made of our parts."""
    if rine is None:
        absent("the outside peer rine-mls is missing: pip install '.[test]'")
    xwing = copy.copy(MLKEM768_X25519)
    xwing.id = SUITE
    xwing.native = None  # the library knows this KEM by its right number only
    ed25519 = CipherSuite.get(1).signature
    number = cast(CipherSuiteId, SUITE)
    monkeypatch.setitem(
        cipher_suite._SUITES, SUITE, CipherSuite(number, xwing, AEADId.CHACHA20_POLY1305, "sha256", ed25519)
    )


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Any]:
    """Makes their clients."""
    made: list[Any] = []

    def client() -> Any:
        made.append(rine.MlsClient(str(tmp_path / str(len(made))), os.urandom(32), SUITE))
        return made[-1]

    return iter(client, None)


def ours(name: str) -> OurClient:
    client = OurPeer().client(name.encode(), SUITE)
    client.own_leaf = replace(client.own_leaf, capabilities=capabilities(cipher_suites=(1, SUITE)))
    return client


def deliver(commit: bytes, we: Sequence[OurGroup], they: Sequence[Any]) -> None:
    for group in we:
        group.process(commit)
    for other in they:
        other.apply_commit(commit)


def all_talk(we: Sequence[OurGroup], they: Sequence[Any]) -> None:
    """Each member writes, and every other one reads it: all have the same epoch's secrets."""
    for number, group in enumerate(we):
        text = b"ours %d" % number
        message = group.encrypt(text)
        for other in we:
            assert other is group or other.process(message).data == text
        for peer in they:
            assert peer.decrypt_application_message(APPLICATION + message).envelope == text
    for number, peer in enumerate(they):
        text = b"theirs %d" % number
        message = peer.encrypt_application_message(text).removeprefix(APPLICATION)
        for group in we:
            assert group.process(message).data == text
        for another in they:
            if another is not peer:
                assert another.decrypt_application_message(APPLICATION + message).envelope == text
    epochs = {group.state().epoch for group in we} | {peer.epoch() for peer in they}
    assert len(epochs) == 1


def test_a_key_package_of_theirs_is_as_ours(theirs: Iterator[Any]) -> None:
    """The same sizes, and the same reference (RFC 9420 5.2)."""
    assert abs(len(next(theirs).generate_key_package()) - len(ours("a").key_package())) < 60


def test_we_found_the_group(theirs: Iterator[Any]) -> None:
    """Their Rust opens what our X-Wing seals, joins, verifies our Commits and talks."""
    founder = ours("founder").create_group(b"group")
    clients = [next(theirs) for _ in range(3)]
    made = founder.commit([Add(each.generate_key_package()) for each in clients])
    assert made.welcome is not None
    founder.process(made.message)
    they = [each.join_from_welcome(made.welcome) for each in clients]
    all_talk([founder], they)
    second, fourth = ours("second"), next(theirs)
    made = founder.commit([Add(second.key_package()), Add(fourth.generate_key_package())])
    assert made.welcome is not None
    deliver(made.message, [founder], they)
    we = [founder, second.join(made.welcome)]
    they.append(fourth.join_from_welcome(made.welcome))
    all_talk(we, they)


def test_what_they_seal_opens_and_their_paths_do_not(theirs: Iterator[Any]) -> None:
    """Our X-Wing opens the Welcome; the path secret in it makes another key pair (RFC 9420 12.4.3.1).

    Every Commit of theirs has a path.  Where draft-ietf-hpke-pq has ``DeriveKeyPair`` by SHAKE256, they have something
    of their own, as ts-mls did before its correction.
    """
    client = ours("member")
    founded = next(theirs).create_group_with_members(b"group", [client.key_package()]).last_commit()
    with pytest.raises(Refused, match="a path secret that makes another key"):
        client.join(founded.welcomes[0])


def test_a_changed_kem_output_is_refused_by_both(theirs: Iterator[Any]) -> None:
    """ML-KEM rejects implicitly: the AEAD's tag shows it (FIPS 203 6.3; RFC 9420 12.4.3.1)."""
    founder, member = ours("founder").create_group(b"group"), next(theirs)
    made = founder.commit([Add(member.generate_key_package())])
    assert made.welcome is not None
    changed = bytearray(made.welcome)
    changed[60] ^= 1  # in the KEM output of the only entry
    with pytest.raises(rine.RineMlsError):
        member.join_from_welcome(bytes(changed))
    client = ours("member")
    founded = next(theirs).create_group_with_members(b"another", [client.key_package()]).last_commit()
    changed = bytearray(founded.welcomes[0])
    changed[60] ^= 1
    with pytest.raises(Refused, match="HPKE decryption failed"):
        client.join(bytes(changed))
