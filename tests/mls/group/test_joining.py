"""Welcomes that are refused: RFC 9420 12.4.3, 12.4.3.1, 13.4.  The inviter is a member and signs what it likes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from slixmpp_mls.errors import InvalidError, MalformedError, NotForUs, PeerError
from slixmpp_mls.mls.crypto.cipher_suite import SignaturePrivateKey
from slixmpp_mls.mls.group.commit_creation import CommitBundle, CommitOptions, sign_group_info
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.parameters import Parameters
from slixmpp_mls.mls.registry import GREASE, ExtensionType
from slixmpp_mls.mls.schedule.key_schedule import welcome_key
from slixmpp_mls.mls.structures.extensions import Extension, ExternalSenders, RequiredCapabilities
from slixmpp_mls.mls.structures.leaf_node import Lifetime
from slixmpp_mls.mls.structures.proposals import Add, PreSharedKey
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from slixmpp_mls.mls.structures.welcome import EncryptedGroupSecrets, GroupInfo, GroupSecrets, PathSecret, Welcome
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle
from tests.mls.group_helpers import DAY, NOW, Room, bundle, lookup, supporting, welcome_of, won

ROOM = Room.of("alice", "bob", "carol")
BOB = ROOM["bob"]
DAVE = bundle("dave")
MADE = BOB.commit([Add(DAVE.key_package)], now=NOW, options=CommitOptions(path=True))


def changed(
    made: CommitBundle,
    client: KeyPackageBundle = DAVE,
    *,
    info: Callable[[GroupInfo], GroupInfo] = lambda info: info,
    secrets: Callable[[GroupSecrets], GroupSecrets] = lambda secrets: secrets,
    key: SignaturePrivateKey | None = None,
) -> Welcome:
    """The Welcome with something else in it, signed and encrypted in the proper way."""
    suite, welcome = client.suite, welcome_of(made)
    (entry,) = (each for each in welcome.secrets if each.new_member == client.reference)
    sealed = welcome.encrypted_group_info
    opened = GroupSecrets.decode(
        suite.decrypt_with_label(client.init_key, "Welcome", sealed, entry.encrypted_group_secrets)
    )
    keys = welcome_key(suite, opened.joiner_secret, suite.zero)
    group_info = info(GroupInfo.decode(suite.aead_open(keys.key, keys.nonce, b"", sealed)))
    group_info = sign_group_info(suite, group_info, key or BOB.signature_key)
    sealed = suite.aead_seal(keys.key, keys.nonce, b"", group_info.encode())
    again = suite.encrypt_with_label(client.key_package.init_key, "Welcome", sealed, secrets(opened).encode())
    return Welcome(suite.id, (EncryptedGroupSecrets(client.reference, again),), sealed)


def refused(welcome: Welcome, section: str, client: KeyPackageBundle = DAVE, **options: object) -> None:
    with pytest.raises(PeerError) as caught:
        Group.join(welcome, client, **options)  # type: ignore[arg-type]
    assert section in str(caught.value)


def in_context(**fields: object) -> Callable[[GroupInfo], GroupInfo]:
    return lambda info: replace(info, group_context=replace(info.group_context, **fields))  # type: ignore[arg-type]


def with_extension(extension: Extension) -> Callable[[GroupInfo], GroupInfo]:
    return lambda info: replace(
        info,
        group_context=replace(info.group_context, extensions=(*info.group_context.extensions, extension)),
    )


def test_an_unchanged_welcome_is_accepted() -> None:
    joined = Group.join(changed(MADE), DAVE)
    assert joined.state.epoch_authenticator == won(MADE).epoch_authenticator
    assert joined.inviter == 1
    assert joined.continues is None


def test_12_4_3_1_not_our_key_package() -> None:
    """The entry is looked up by KeyPackageRef, no other one is tried."""
    with pytest.raises(NotForUs):
        Group.join(welcome_of(MADE), bundle("dave"))
    welcome = welcome_of(MADE)
    (entry,) = welcome.secrets
    renamed = replace(welcome, secrets=(replace(entry, new_member=bytes(32)),))
    with pytest.raises(NotForUs):
        Group.join(renamed, DAVE)


def test_12_4_3_1_cipher_suite() -> None:
    refused(replace(welcome_of(MADE), cipher_suite=3), "12.4.3.1")
    refused(changed(MADE, info=in_context(cipher_suite=3)), "12.4.3.1")


def test_12_4_3_signature_of_the_group_info() -> None:
    refused(changed(MADE, key=ROOM["carol"].signature_key), "signature")
    refused(changed(MADE, key=DAVE.signature_key), "signature")


def test_12_4_3_signer_is_the_leaf_that_is_named() -> None:
    """A GroupInfo signature is accepted from one leaf only (mls-peers-lessons, library bugs)."""

    def signed_by(signer: int) -> Welcome:
        return changed(MADE, info=lambda info: replace(info, signer=signer))

    for signer in (0, 2, 3):
        refused(signed_by(signer), "signature")
    for signer in (4, 2**32 - 1):
        refused(signed_by(signer), "no member")
    made = won(BOB.commit(now=NOW)).commit([Add(DAVE.key_package)], now=NOW)
    assert Group.join(changed(made), DAVE).inviter == 1


def test_12_4_3_1_group_id_is_unique_among_our_groups() -> None:
    welcome = welcome_of(MADE)
    refused(welcome, "12.4.3.1", groups={b"a room": ROOM["carol"]}.get)
    assert Group.join(welcome, DAVE, groups={b"another": ROOM["carol"]}.get)


def test_6_version() -> None:
    refused(changed(MADE, info=in_context(version=2)), "version")


def test_12_4_3_1_tree_hash() -> None:
    refused(changed(MADE, info=in_context(tree_hash=bytes(32))), "12.4.3.1")


def test_12_4_3_1_confirmation_tag_and_context() -> None:
    refused(changed(MADE, info=lambda info: replace(info, confirmation_tag=bytes(32))), "confirmation tag")
    refused(changed(MADE, info=in_context(confirmed_transcript_hash=bytes(32))), "confirmation tag")
    refused(changed(MADE, info=in_context(epoch=7)), "confirmation tag")
    refused(changed(MADE, info=in_context(group_id=b"another")), "signature")  # the leaves are signed for this one


def test_12_4_3_1_joiner_secret() -> None:
    refused(changed(MADE, secrets=lambda old: replace(old, joiner_secret=bytes(32))), "AEAD")


def test_12_4_3_1_path_secret() -> None:
    def other(old: GroupSecrets) -> GroupSecrets:
        return replace(old, path_secret=PathSecret(bytes(32)))

    refused(changed(MADE, secrets=other), "12.4.3.1")
    no_path = BOB.commit([Add(DAVE.key_package)], now=NOW)
    assert Group.join(changed(no_path), DAVE)
    refused(changed(no_path, secrets=other), "12.4.3.1")
    # without the path secret nothing is known above the leaf; the group does not notice until a path
    joined = Group.join(changed(MADE, secrets=lambda old: replace(old, path_secret=None)), DAVE)
    assert list(joined.state.private.keys) == [6]


def test_12_4_3_1_our_leaf_is_in_the_tree() -> None:
    tree = won(BOB.commit([Add(bundle("erin").key_package)], now=NOW)).tree
    refused(changed(MADE, info=in_context(tree_hash=tree.tree_hash())), "our leaf", tree=tree)
    refused(changed(MADE, info=in_context(tree_hash=BOB.tree.tree_hash())), "our leaf", tree=BOB.tree)
    # our signature key is there, in another leaf than our KeyPackage's
    other = bundle("dave", key=DAVE.signature_key)
    tree = won(BOB.commit([Add(other.key_package)], now=NOW)).tree
    refused(changed(MADE, info=in_context(tree_hash=tree.tree_hash())), "our leaf", tree=tree)


@pytest.mark.parametrize("number", [0xF123, min(GREASE), max(GREASE)])
def test_13_4_extensions_of_the_group_that_we_do_not_support(number: int) -> None:
    """GREASE is listed in our Capabilities and is no support (13.5)."""
    supports = replace(supporting(), extensions=(10, *GREASE))
    erin = bundle("erin", supports=supports)
    made = BOB.commit([Add(erin.key_package)], now=NOW)
    assert Group.join(changed(made, erin), erin)
    refused(changed(made, erin, info=with_extension(Extension(number, b""))), "13.4", erin)


def test_13_4_extensions_that_the_others_do_not_support() -> None:
    erin = bundle("erin", supports=supporting(extensions=(0xF001,)))
    made = BOB.commit([Add(erin.key_package)], now=NOW)
    refused(changed(made, erin, info=with_extension(Extension(0xF001, b""))), "12.1.7", erin)
    required = RequiredCapabilities((0xF001,)).extension()
    refused(changed(made, erin, info=with_extension(required)), "12.1.7", erin)


def test_13_4_no_extension_twice() -> None:
    twice = ExternalSenders(()).extension()
    refused(changed(MADE, info=lambda info: with_extension(twice)(with_extension(twice)(info))), "13.4")
    refused(
        changed(MADE, info=lambda info: replace(info, extensions=(*info.extensions, Extension(0xF0, b"")) * 2)), "13.4"
    )


def test_13_4_known_extensions_must_parse() -> None:
    bad = Extension(ExtensionType.EXTERNAL_SENDERS, b"\xff")
    with pytest.raises(MalformedError):
        Group.join(changed(MADE, info=with_extension(bad)), DAVE)
    with pytest.raises(MalformedError):
        Group.join(
            changed(
                MADE, info=lambda info: replace(info, extensions=(Extension(ExtensionType.RATCHET_TREE, b"\x05"),))
            ),
            DAVE,
        )


def test_13_4_unknown_extensions_of_the_group_info_are_passed_over() -> None:
    more = tuple(Extension(number, b"anything") for number in (0xF0F0, *sorted(GREASE)))

    def with_more(info: GroupInfo) -> GroupInfo:
        kept = tuple(each for each in info.extensions if each.extension_type not in GREASE)
        return replace(info, extensions=(*more, *kept))

    assert Group.join(changed(MADE, info=with_more), DAVE)


def test_12_4_3_1_psks() -> None:
    name = ExternalPSK(b"agreed")
    proposal = PreSharedKey(PreSharedKeyID(name, bytes(32)))
    made = BOB.commit([Add(DAVE.key_package), proposal], now=NOW, psks=lookup({name: b"value"}))
    welcome = welcome_of(made)
    refused(welcome, "12.4.3.1")
    refused(welcome, "AEAD", psks=lookup({name: b"another"}))
    assert Group.join(welcome, DAVE, psks=lookup({name: b"value"}))


def test_12_4_3_1_at_most_one_psk_that_continues_a_group() -> None:
    names = tuple(
        PreSharedKeyID(ResumptionPSK(usage, b"old", 1), bytes(32))
        for usage in (ResumptionPSKUsage.BRANCH, ResumptionPSKUsage.REINIT)
    )
    refused(changed(MADE, secrets=lambda old: replace(old, psks=names)), "more than one")
    refused(changed(MADE, secrets=lambda old: replace(old, psks=names[:1] * 2)), "more than one")


def test_every_octet_of_a_welcome_counts() -> None:
    octets = welcome_of(MADE).encode()
    for place in range(0, len(octets), 7):
        spoilt = bytearray(octets)
        spoilt[place] ^= 0x10
        with pytest.raises(PeerError):
            Group.join(Welcome.decode(bytes(spoilt)), DAVE)


def test_many_join_by_one_welcome() -> None:
    clients = [bundle(f"guest {number}") for number in range(20)]
    made = BOB.commit([Add(client.key_package) for client in clients], now=NOW, options=CommitOptions(path=True))
    states = [Group.join(welcome_of(made), client).state for client in clients]
    assert {state.epoch_authenticator for state in states} == {won(made).epoch_authenticator}
    assert [state.own_index for state in states] == list(range(3, 23))


def test_7_3_an_expired_leaf_in_the_tree_is_no_reason_to_stay_away() -> None:
    """mls-peers-lessons, users 7: a lifetime is the time in which a client may be added; joining takes no clock."""
    old = bundle("erin", lifetime=Lifetime(0, DAY))
    made = BOB.commit([Add(old.key_package)], now=DAY)
    assert Group.join(welcome_of(made), old)


def test_7_2_a_lifetime_that_is_too_long_keeps_us_away() -> None:
    """Members refuse such a leaf in an Add; a joiner meets it in the tree, and comes to the same verdict."""
    lasting = bundle("erin", lifetime=Lifetime(NOW - DAY, NOW + 28 * DAY))
    made = BOB.commit([Add(lasting.key_package), Add(DAVE.key_package)], now=NOW)
    assert Group.join(welcome_of(made), DAVE)
    with pytest.raises(InvalidError, match="7\\.2"):
        Group.join(welcome_of(made), DAVE, parameters=Parameters(lifetime_limit=28 * DAY))
