"""Groups for tests: honest rooms of members that stay in step, and a member that signs what it likes.

A :class:`~slixmpp_mls.mls.group.group.Group` is a value, so rooms made once serve many tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from slixmpp_mls.errors import MLSError, PeerError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite, SignaturePrivateKey
from slixmpp_mls.mls.group.commit_creation import CommitBundle, CommitOptions
from slixmpp_mls.mls.group.commit_effects import Effects
from slixmpp_mls.mls.group.group import Group
from slixmpp_mls.mls.group.group_state import PSKLookup
from slixmpp_mls.mls.group.message_processing import ReceivedMessage, ReceivedProposal
from slixmpp_mls.mls.group.staging import StagedCommit
from slixmpp_mls.mls.parameters import Parameters
from slixmpp_mls.mls.registry import WireFormat
from slixmpp_mls.mls.schedule.message_protection import (
    open_sender_data,
    protect_private,
    protect_public,
    sign,
    unprotect_private,
)
from slixmpp_mls.mls.structures.commit import Commit
from slixmpp_mls.mls.structures.credential import AnyCredential, BasicCredential
from slixmpp_mls.mls.structures.extensions import Extension
from slixmpp_mls.mls.structures.framing import (
    AnySender,
    ApplicationData,
    AuthenticatedContent,
    FramedContent,
    MemberSender,
    MLSMessage,
    PublicMessage,
)
from slixmpp_mls.mls.structures.leaf_node import Capabilities, Lifetime
from slixmpp_mls.mls.structures.proposals import Add, AnyProposal
from slixmpp_mls.mls.structures.psk import ExternalPSK, ResumptionPSK
from slixmpp_mls.mls.structures.update_path import UpdatePath
from slixmpp_mls.mls.structures.welcome import GroupInfo, Welcome
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle, OwnLeaf, capabilities, create_key_package, sign_leaf

NOW = 1_800_000_000
DAY = 86_400
PUBLIC = CommitOptions(public=True)


def bundle(
    name: str,
    suite: int = 1,
    *,
    key: SignaturePrivateKey | None = None,
    credential: AnyCredential | None = None,
    supports: Capabilities | None = None,
    extensions: tuple[Extension, ...] = (),
    lifetime: Lifetime | None = None,
    last_resort: bool = False,
) -> KeyPackageBundle:
    """A client with a KeyPackage."""
    algorithms = CipherSuite.get(suite)
    own = OwnLeaf(
        credential or BasicCredential(name.encode()),
        key or algorithms.generate_signature_key(),
        supports or capabilities(),
        extensions,
    )
    return create_key_package(algorithms, own, lifetime or Lifetime(NOW - DAY, NOW + DAY), last_resort=last_resort)


def supporting(
    *, extensions: Iterable[int] = (), proposals: Iterable[int] = (10,), credentials: Iterable[int] = (1, 2)
) -> Capabilities:
    """Capabilities without GREASE."""
    return capabilities(extensions=extensions, proposals=proposals, credentials=credentials, random=None)


def body(message: bytes) -> Any:
    """What an MLSMessage carries."""
    return MLSMessage.decode(message).body


def welcome_of(made: CommitBundle) -> Welcome:
    assert made.welcome is not None
    found = body(made.welcome)
    assert isinstance(found, Welcome)
    return found


def group_info_of(group: Group, **options: Any) -> GroupInfo:
    found = body(group.group_info(**options))
    assert isinstance(found, GroupInfo)
    return found


def lookup(values: Mapping[ExternalPSK | ResumptionPSK, bytes]) -> PSKLookup:
    """The PSKs that somebody knows; to be passed as ``psks``."""
    return values.get


def won(made: CommitBundle) -> Group:
    """The committer after its Commit has won."""
    return cast(Group, made.sent).apply(made.staged, now=NOW)


def heard(group: Group, message: bytes, **options: Any) -> Group:
    """A member after a message."""
    return group.apply(group.process(message, now=NOW, **options), now=NOW)


class Room:
    """Members by name, each of whom hears everything."""

    def __init__(self, groups: dict[str, Group]) -> None:
        self.groups = dict(groups)

    @classmethod
    def of(
        cls,
        *clients: KeyPackageBundle | str,
        suite: int = 1,
        extensions: tuple[Extension, ...] = (),
        parameters: Parameters | None = None,
    ) -> Room:
        """A room that the first has made and brought the others into."""
        made = [client if isinstance(client, KeyPackageBundle) else bundle(client, suite) for client in clients]
        first = Group.create(made[0], b"a room", extensions=extensions, parameters=parameters)
        room = cls({_name(made[0]): first})
        if made[1:]:
            room.commit(_name(made[0]), [Add(client.key_package) for client in made[1:]], joining=made[1:])
        return room

    def copy(self) -> Room:
        return Room(self.groups)

    def __getitem__(self, name: str) -> Group:
        return self.groups[name]

    def __setitem__(self, name: str, group: Group) -> None:
        self.groups[name] = group

    def others(self, *names: str) -> list[str]:
        return [name for name in self.groups if name not in names]

    def say(self, sender: str, data: bytes = b"hello", **options: Any) -> bytes:
        """An application message that all others read."""
        message, self[sender] = self[sender].encrypt(data, **options)
        for name in self.others(sender):
            received = self[name].process(message, now=NOW)
            assert isinstance(received, ReceivedMessage)
            assert received.data == data
            assert received.sender == self[sender].own_index
            assert received.leaf == self[sender].own_leaf
            self[name] = self[name].apply(received, now=NOW)
        return message

    def hear(self, message: bytes, *without: str) -> None:
        """A proposal or Commit that reaches everybody."""
        for name in self.others(*without):
            self[name] = heard(self[name], message)

    def propose(self, sender: str, proposal: AnyProposal, *, public: bool = False) -> bytes:
        """A proposal that all keep; its reference."""
        message, self[sender] = self[sender].propose(proposal, now=NOW, public=public)
        self.hear(message, sender)
        return self.last_reference(sender)

    def propose_update(self, sender: str, own: OwnLeaf | None = None, *, public: bool = False) -> bytes:
        """An Update that all keep; its reference."""
        message, self[sender] = self[sender].propose_update(own, now=NOW, public=public)
        self.hear(message, sender)
        return self.last_reference(sender)

    def last_reference(self, name: str) -> bytes:
        reference = self[name].pending_proposals[-1].reference
        assert reference is not None
        return reference

    def commit(
        self,
        sender: str,
        proposals: Sequence[AnyProposal] = (),
        *,
        options: CommitOptions | None = None,
        joining: Sequence[KeyPackageBundle] = (),
        **more: Any,
    ) -> Effects:
        """A Commit that wins: all follow it, or go; those who join, join.  Then all agree."""
        made = self[sender].commit(proposals, now=NOW, options=options, **more)
        return self.settle(sender, made, joining, psks=more.get("psks"))

    def settle(
        self, sender: str, made: CommitBundle, joining: Sequence[KeyPackageBundle] = (), psks: Any = None
    ) -> Effects:
        known = {} if psks is None else {"psks": psks}
        for name in self.others(sender):
            staged = self[name].process(made.commit, now=NOW, **known)
            assert isinstance(staged, StagedCommit)
            assert staged.effects == made.staged.effects
            if staged.next is None:
                del self.groups[name]
            else:
                self[name] = self[name].apply(staged, now=NOW)
        self[sender] = won(made)
        for client in joining:
            parameters = self[sender].parameters
            joined = Group.join(welcome_of(made), client, parameters=parameters, **known)
            assert joined.inviter == self[sender].own_index
            assert joined.reference == client.reference
            self[_name(client)] = cast(Group, joined.state)
        self.agree()
        return made.staged.effects

    def agree(self) -> None:
        """All are in the same state."""
        seen = {
            (
                group.epoch,
                group.context.encode(),
                group.tree.tree_hash(),
                group.epoch_authenticator,
                group.public.interim_transcript_hash,
                group.export("test", b"context", 32),
                tuple(group.members()),
            )
            for group in self.groups.values()
        }
        assert len(seen) == 1
        for group in self.groups.values():
            held = {group.tree.node(node).encryption_key: key.public for node, key in group.private.keys.items()}  # type: ignore[union-attr]
            assert all(public == known for public, known in held.items())
            assert group.own_leaf.signature_key == group.signature_key.public


def _name(client: KeyPackageBundle) -> str:
    credential = client.key_package.leaf_node.credential
    return credential.identity.decode() if isinstance(credential, BasicCredential) else type(credential).__name__


def refused(
    group: Group, message: bytes | MLSMessage, section: str, error: type[MLSError] = PeerError, **options: Any
) -> None:
    """The member refuses a message for this reason, and has not changed by an octet."""
    before = group.pieces()
    with pytest.raises(error) as caught:
        group.process(message, now=NOW, **options)
    assert section in str(caught.value), str(caught.value)
    assert group.pieces() == before


# --- a malicious member ----------------------------------------------------------------------


def forged(
    group: Group,
    content: ApplicationData | AnyProposal | Commit,
    *,
    public: bool = True,
    sender: AnySender | None = None,
    key: SignaturePrivateKey | None = None,
    tag: bytes | None = None,
    group_id: bytes | None = None,
    epoch: int | None = None,
    authenticated_data: bytes = b"",
) -> bytes:
    """Whatever a member wants to sign, signed and protected in the proper way."""
    form = WireFormat.PUBLIC_MESSAGE if public else WireFormat.PRIVATE_MESSAGE
    framed = FramedContent(
        group.group_id if group_id is None else group_id,
        group.epoch if epoch is None else epoch,
        sender or MemberSender(group.own_index),
        authenticated_data,
        content,
    )
    context = group.context.encode()
    signature = sign(group.suite, key or group.signature_key, form, framed, context)
    if isinstance(content, Commit) and tag is None:
        tag = bytes(group.suite.hash_length)
    signed = AuthenticatedContent(form, framed, signature, tag)
    if public:
        return MLSMessage.wrap(protect_public(group.suite, signed, group.secrets.membership_key, context))
    message, _ = protect_private(group.suite, signed, group.secret_tree, group.secrets.sender_data_secret)
    return MLSMessage.wrap(message)


def forged_commit(group: Group, *entries: Any, path: UpdatePath | bool = True, public: bool = True) -> bytes:
    """A Commit of any list.

    :param path: True for one that is good enough for what is looked at before paths are
    """
    if path is True:
        path = UpdatePath(group.own_leaf, ())
    return forged(group, Commit(tuple(entries), path or None), public=public)


def changed_commit(
    group: Group,
    made: CommitBundle,
    change: Callable[[Commit], Commit],
    *,
    tag: bytes | None = None,
    public: bool = True,
) -> bytes:
    """A Commit of ours with something changed, signed again."""
    message = body(made.commit)
    if isinstance(message, PublicMessage):
        commit, old_tag = message.content.content, message.confirmation_tag
    else:
        sender = open_sender_data(group.suite, message, group.secrets.sender_data_secret)
        opened, _ = unprotect_private(group.suite, message, sender, group.secret_tree)
        commit, old_tag = opened.content.content, None
    assert isinstance(commit, Commit)
    return forged(group, change(commit), tag=old_tag if tag is None else tag, public=public)


def changed_leaf(group: Group, made: CommitBundle, **fields: Any) -> bytes:
    """A public Commit of ours with another leaf in its path, signed again."""
    key = fields.pop("sign_with", group.signature_key)

    def change(commit: Commit) -> Commit:
        assert commit.path is not None
        leaf = signed_leaf(group, replace(commit.path.leaf_node, **fields), key)
        return replace(commit, path=replace(commit.path, leaf_node=leaf))

    return changed_commit(group, made, change)


def signed_leaf(group: Group, leaf: Any, key: SignaturePrivateKey | None = None) -> Any:
    return sign_leaf(group.suite, leaf, key or group.signature_key, group.group_id, group.own_index)


def proposal_of(group: Group, message: bytes) -> ReceivedProposal:
    """A proposal, processed."""
    received = group.process(message, now=NOW)
    assert isinstance(received, ReceivedProposal)
    return received
