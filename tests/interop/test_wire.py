"""What we put on the wire beyond the ordinary, accepted by others, and what they put there, read without loss."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import pytest
from lxml import etree

from slixmpp_mls.errors import InvalidError
from slixmpp_mls.mls.group import commit_creation
from slixmpp_mls.mls.group.commit_creation import CommitOptions
from slixmpp_mls.mls.group.group import Group as MLSGroup
from slixmpp_mls.mls.registry import GREASE, ExtensionType, ProposalType
from slixmpp_mls.mls.structures.credential import Certificate, X509Credential
from slixmpp_mls.mls.structures.framing import MLSMessage, PublicMessage
from slixmpp_mls.mls.structures.key_package import KeyPackage
from slixmpp_mls.mls.structures.proposals import Add as AddProposal
from slixmpp_mls.mls.structures.proposals import SelfRemove
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID, ResumptionPSK
from slixmpp_mls.mls.structures.welcome import GroupInfo
from slixmpp_mls.mls.tree.leaf_creation import capabilities
from slixmpp_mls.mls.xml_form import from_xml, to_xml
from tests.mls import observer
from tests.mls.observer import follow

from .cases import full_room, people
from .mls_rs import MlsRsPeer
from .our_peer import PARAMETERS, OurClient, OurGroup, OurPeer
from .peers import Add, Can, Client, Extension, ExternalPsk, Group, Peer, Refused, Remove, SetExtensions, Update
from .room import Room, fresh_id
from .scenarios import BASIC_REQUIRED
from .tree import Reader
from .ts_mls_peer import TsMlsClient, TsMlsPeer

pytestmark = pytest.mark.interop

KINDS: list[type[Peer]] = [TsMlsPeer, MlsRsPeer]
VALUES = sorted(GREASE)
T = TypeVar("T")
PeerOf = Callable[[type[Peer]], Peer]


@pytest.fixture(params=KINDS, ids=lambda kind: str(kind.name))
def theirs(request: pytest.FixtureRequest, peer_of: PeerOf) -> Peer:
    """Each outside peer in turn."""
    return peer_of(request.param)


def our_client(name: bytes = b"we") -> OurClient:
    return OurPeer().client(name, 1)


def our_group(room: Room, client: Client) -> OurGroup:
    group = room[client]
    assert isinstance(group, OurGroup)
    return group


def _body(message: bytes, kind: type[T]) -> T:
    found = MLSMessage.decode(message).body
    assert isinstance(found, kind)
    return found


def choosing(number: int) -> Callable[[int], bytes]:
    """Randomness that chooses this GREASE value wherever one is chosen."""
    return lambda length: bytes([number]) if length == 1 else os.urandom(length)


def numbers(vector: bytes) -> list[int]:
    """The items of a vector of two-byte numbers."""
    return [int.from_bytes(vector[at : at + 2]) for at in range(0, len(vector), 2)]


def types_of(extensions: Iterable[Extension]) -> set[int]:
    return {extension.type for extension in extensions}


def read_key_package(message: bytes) -> tuple[list[list[int]], set[int], set[int]]:
    """Of a KeyPackage with a Basic credential: the lists in Capabilities, types of the leaf's and own extensions."""
    reader = Reader(message)
    assert [reader.uint(2), reader.uint(2), reader.uint(2), reader.uint(2)] == [1, 5, 1, 1]
    for _ in range(3):  # init_key, encryption_key, signature_key
        reader.vector()
    reader.uint(2)  # credential type
    reader.vector()  # identity
    lists = [numbers(reader.vector()) for _ in range(5)]
    reader.take(1 + 16)  # leaf_node_source, lifetime
    of_leaf = types_of(reader.extensions())
    reader.vector()  # the leaf's signature
    own = types_of(reader.extensions())
    reader.vector()  # signature
    assert reader.done
    return lists, of_leaf, own


def read_group_info(message: bytes) -> set[int]:
    """The types of a GroupInfo's extensions."""
    reader = Reader(message)
    assert [reader.uint(2), reader.uint(2), reader.uint(2), reader.uint(2)] == [1, 4, 1, 1]
    reader.vector()  # group_id
    reader.uint(8)
    reader.vector()  # tree_hash
    reader.vector()  # confirmed_transcript_hash
    reader.extensions()
    return types_of(reader.extensions())


def test_13_5_grease_in_our_key_packages(theirs: Peer) -> None:
    host = theirs.client(b"host", 1)
    guests, packages = [], []
    for number, value in enumerate(VALUES):
        guest = our_client(f"guest{number}".encode())
        guest.own_leaf = replace(guest.own_leaf, capabilities=capabilities(random=choosing(number)))
        package = guest.key_package()
        (_, *lists), _, extensions = read_key_package(package)
        assert all(value in listed for listed in lists)
        assert value in extensions
        guests.append(guest)
        packages.append(package)
    room = Room.create(host)
    room.commit(host, *map(Add, packages), joining=guests)
    room.talk(host, guests[0])
    room.commit(guests[3])
    room.talk(host, guests[14])


def test_13_5_grease_in_our_group_infos(theirs: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[GroupInfo] = []
    create = commit_creation.create_group_info

    def noting(*arguments: object, **keywords: object) -> GroupInfo:
        made.append(create(*arguments, **keywords))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(commit_creation, "create_group_info", noting)
    host = our_client(b"host")
    room = Room.create(host)
    for number, value in enumerate(VALUES):
        guest = theirs.client(f"guest{number}".encode(), 1)
        package = _body(guest.key_package(), KeyPackage)
        group = our_group(room, host)
        bundle = group.core.commit([AddProposal(package)], now=int(time.time()), random=choosing(number))
        assert value in {extension.extension_type for extension in made[-1].extensions}
        room.follow(group.hold(bundle), host, [guest])
        info = our_group(room, host).core.group_info(random=choosing(number))
        assert value in read_group_info(info)
        if Can.EXTERNAL_JOIN in theirs.can:
            theirs.client(b"outsider", 1).external_join(info)
    room.talk(host)


def test_last_resort_key_package_joins_twice(theirs: Peer) -> None:
    """draft-ietf-mls-extensions: it may be used again."""
    we = our_client()
    package = we.key_package(last_resort=True)
    lists, _, extensions = read_key_package(package)
    assert ExtensionType.APP_DATA_DICTIONARY in extensions
    assert ExtensionType.LAST_RESORT not in extensions
    assert ExtensionType.APP_DATA_DICTIONARY in lists[2]  # RFC 9420 10
    for name in (b"first", b"second"):
        host = theirs.client(name, 1)
        room = Room.create(host)
        room.commit(host, Add(package), joining=[we])
        room.talk()
        room.commit(we)
        room.talk()


def test_last_resort_key_package_of_another_is_added(ts_mls: Peer) -> None:
    host, guest = our_client(), ts_mls.client(b"guest", 1, extensions=[ExtensionType.LAST_RESORT])
    assert isinstance(guest, TsMlsClient)
    made = guest.ask("key_package", extensions=[{"type": int(ExtensionType.LAST_RESORT), "data": ""}])
    package = Add(base64.b64decode(made["message"], validate=True))
    assert ExtensionType.LAST_RESORT in read_key_package(package.key_package)[2]
    room = Room.create(host)
    room.commit(host, package, joining=[guest])
    room.talk()


def test_self_remove_where_all_know_it_and_only_there(theirs: Peer) -> None:
    """draft-ietf-mls-extensions: neither outside peer lists it, so nobody may send it before they have gone."""
    assert ProposalType.SELF_REMOVE not in read_key_package(theirs.client(b"any", 1).key_package())[0][3]
    clients = people(OurPeer(), theirs, 1, 2)
    others = [our_client(b"leaving"), our_client(b"staying")]
    room = full_room([*clients, *others])
    group = our_group(room, others[0])
    before = group.core.pieces()
    with pytest.raises(InvalidError, match="0x000a"):
        group.core.propose(SelfRemove(), now=int(time.time()))
    assert group.core.pieces() == before
    room.remove(clients[0], clients[1])
    message, core = group.core.propose(SelfRemove(), now=int(time.time()))
    group.store(core)
    assert message[:4] == bytes([0, 1, 0, 1])  # mls10, a PublicMessage
    room.deliver_proposal(message, others[0])
    room.commit(clients[0])
    assert others[0].identity not in room.groups
    room.talk()


def test_a_new_signature_key_by_commit(theirs: Peer) -> None:
    """RFC 9420 12.4.1: the new leaf's key signs the GroupInfo of the same Commit, the old one the Commit."""
    clients = people(OurPeer(), theirs, 1, 4)
    room = full_room(clients[:3])
    group = our_group(room, clients[0])
    client = clients[0]
    assert isinstance(client, OurClient)
    client.own_leaf = replace(client.own_leaf, signature_key=client.cipher_suite.generate_signature_key())
    package = _body(clients[3].key_package(), KeyPackage)
    made = group.core.commit([AddProposal(package)], now=int(time.time()), options=CommitOptions(leaf=client.own_leaf))
    room.follow(group.hold(made), client, [clients[3]])
    assert group.core.own_leaf.signature_key == client.own_leaf.signature_key.public
    room.talk()
    room.commit(client)
    room.talk()


def test_a_new_signature_key_by_update(theirs: Peer) -> None:
    clients = people(OurPeer(), theirs, 1, 3)
    room = full_room(clients)
    client = clients[0]
    assert isinstance(client, OurClient)
    group = our_group(room, client)
    client.own_leaf = replace(client.own_leaf, signature_key=client.cipher_suite.generate_signature_key())
    message, core = group.core.propose_update(client.own_leaf, now=int(time.time()))
    group.store(core)
    room.deliver_proposal(message, client)
    room.commit(clients[1])
    assert group.core.own_leaf.signature_key == client.own_leaf.signature_key.public
    room.talk()
    room.commit(client)
    room.talk()


def test_12_2_of_contradicting_proposals_we_commit_those_that_all_accept(theirs: Peer) -> None:
    clients = people(OurPeer(), theirs, 1, 5)
    room = full_room(clients)
    we, they, gone, they_too, also_we = clients
    room.propose(gone, Update())
    room.propose(they, Remove(room.index_of(gone)))
    room.propose(also_we, Remove(room.index_of(gone)))
    room.propose(they_too, Remove(room.index_of(we)))  # the committer itself, which somebody else may remove
    room.commit(we)
    assert set(room.groups) == {client.identity for client in (we, they, they_too, also_we)}
    room.talk()


def test_x509_credentials(ts_mls: Peer) -> None:
    """RFC 9420 5.3; what is in the certificates is the Authentication Service's business."""
    host, guest = ts_mls.client(b"host", 1), our_client()
    chain = X509Credential((Certificate(b"not really DER" * 40), Certificate(b"an authority")))
    guest.own_leaf = replace(guest.own_leaf, credential=chain)
    one = host.create_group(fresh_id())
    commit = one.commit([Add(guest.key_package())])
    one.process(commit.message)
    assert commit.welcome is not None
    other = guest.join(commit.welcome)
    _same(one, other)
    again = other.commit()
    for group in (one, other):
        group.process(again.message)
    _same(one, other)
    assert other.process(one.encrypt(b"to you")).data == b"to you"
    assert one.process(other.encrypt(b"and back")).data == b"and back"


def _same(one: Group, other: Group) -> None:
    assert one.state() == replace(other.state(), own_index=one.state().own_index)


def test_7_3_nobody_whose_credential_a_member_cannot_read(mls_rs: Peer) -> None:
    clients = people(OurPeer(), mls_rs, 1, 2)
    room = full_room(clients)
    guest = our_client(b"guest")
    guest.own_leaf = replace(guest.own_leaf, credential=X509Credential((Certificate(b"not really DER"),)))
    with pytest.raises(Refused, match="credential"):
        room[clients[0]].commit([Add(guest.key_package())])


def test_7_2_lifetimes_of_a_year_are_too_long_unless_the_application_says_otherwise(mls_rs: Peer) -> None:
    host = our_client(b"host")
    package = _body(mls_rs.client(b"guest", 1).key_package(), KeyPackage)
    strict = MLSGroup.create(host.new_bundle(), b"group")
    with pytest.raises(InvalidError, match=r"RFC 9420 7\.2"):
        strict.commit([AddProposal(package)], now=int(time.time()))


def test_external_commit_with_a_psk(ts_mls: Peer) -> None:
    clients = people(ts_mls, ts_mls, 1, 2)
    room = full_room(clients)
    for client in clients:
        client.register_psk(b"agreed", b"a secret agreed elsewhere")
    guest = our_client(b"guest")
    info = _body(room[clients[0]].group_info(), GroupInfo)

    def psks(name: ExternalPSK | ResumptionPSK) -> bytes | None:
        return b"a secret agreed elsewhere" if name == ExternalPSK(b"agreed") else None

    name = PreSharedKeyID(ExternalPSK(b"agreed"), os.urandom(32))
    now = int(time.time())
    made = MLSGroup.external_commit(info, guest.own_leaf, now=now, psk_names=[name], psks=psks)
    assert made.staged.next is not None
    room.enter(guest.enter(made.staged.next), made.commit)
    room.talk()


def test_3_2_a_follower_sees_what_members_see(theirs: Peer) -> None:
    """Somebody without any secret follows a group of both implementations by its PublicMessages alone."""
    clients = people(OurPeer(), theirs, 1, 7)
    room = full_room(clients[:5])
    public = follow(_body(room[clients[0]].group_info(), GroupInfo))

    def heard(message: bytes) -> None:
        nonlocal public
        public = observer.process(public, message, parameters=PARAMETERS).next

    def commit(committer: Client, *proposals: Add | Remove, joining: Sequence[Client] = ()) -> None:
        heard(room.commit(committer, *proposals, private=False, joining=joining).message)
        assert public.tree.encode() == room.state.ratchet_tree
        assert public.context.tree_hash == room.state.tree_hash
        assert public.context.confirmed_transcript_hash == room.state.confirmed_transcript_hash
        assert public.epoch == room.state.epoch

    for number in (0, 1, 3):
        commit(clients[number])
    commit(clients[3], Remove(room.index_of(clients[0])))
    commit(clients[1], Add(clients[5].key_package()), joining=clients[5:6])
    proposals: list[Add | Remove] = [Add(clients[6].key_package()), Remove(room.index_of(clients[5]))]
    for proposer, proposal in zip((clients[1], clients[3]), proposals, strict=True):
        message = room[proposer].propose(proposal, private=False)
        room.deliver_proposal(message, proposer)
        heard(message)
    commit(clients[2], joining=clients[6:])
    commit(clients[6])


def test_what_others_send_survives_our_codecs(theirs: Peer, peer_of: PeerOf) -> None:
    """Bytes to structures to bytes, and to XML and back, is the identity on every message of a rich history."""
    clients = people(theirs, theirs, 1, 4)
    room = Room.create(clients[0])
    packages = [client.key_package() for client in clients]
    messages: list[bytes] = list(packages)

    def commit(committer: Client, *proposals: Add | Remove | SetExtensions | ExternalPsk) -> None:
        joining = [clients[packages.index(each.key_package)] for each in proposals if isinstance(each, Add)]
        made = room.commit(committer, *proposals, private=public, joining=joining)
        messages.extend(each for each in (made.message, made.welcome, made.group_info) if each is not None)

    public = False if Can.PRIVATE_HANDSHAKE in theirs.can else None
    commit(clients[0], Add(packages[1]), Add(packages[2]))
    commit(clients[2])
    for proposal in _proposals(theirs, packages[3], room.index_of(clients[1])):
        messages.append(room[clients[0]].propose(proposal, private=public))
    room = full_room(clients)
    commit(clients[1], Remove(room.index_of(clients[2])))
    messages.append(room[clients[0]].encrypt(b"something"))
    if Can.EXTERNAL_JOIN in theirs.can:
        messages.append(theirs.client(b"guest", 1).external_join(room[clients[0]].group_info())[1])
    kinds = set()
    for octets in messages:
        message = MLSMessage.decode(octets)
        kinds.add(type(message.body))
        assert message.encode() == octets
        element = etree.fromstring(etree.tostring(to_xml(message)))
        assert from_xml(element).encode() == octets
    assert kinds >= {KeyPackage, PublicMessage}
    assert (GroupInfo in kinds) == (Can.GROUP_INFO in theirs.can)


def _proposals(theirs: Peer, package: bytes, index: int) -> Sequence[Add | Remove | Update | SetExtensions]:
    found: list[Add | Remove | Update | SetExtensions] = [Add(package), Remove(index)]
    if Can.PROPOSE_UPDATE in theirs.can:
        found.append(Update())
    if Can.PROPOSE_EXTENSIONS in theirs.can:
        found.append(SetExtensions((BASIC_REQUIRED,)))
    return found
