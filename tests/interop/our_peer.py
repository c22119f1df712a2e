"""This project's core as a peer, used as an application would use it.

Every step goes through a store: a group's pieces are written as what has changed, KeyPackages with their keys are kept
encoded, and :meth:`OurGroup.reload` goes on from the pieces alone, a Commit that waits included.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from slixmpp_mls.errors import MLSError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.group.commit_creation import CommitBundle, CommitOptions
from slixmpp_mls.mls.group.group import Group as MLSGroup
from slixmpp_mls.mls.group.group import external_proposal
from slixmpp_mls.mls.group.group_state import GroupState as MLSGroupState
from slixmpp_mls.mls.group.message_processing import ReceivedMessage, ReceivedProposal
from slixmpp_mls.mls.group.staging import StagedCommit
from slixmpp_mls.mls.parameters import DAY, HOUR, Parameters
from slixmpp_mls.mls.registry import CipherSuiteId, ProtocolVersion
from slixmpp_mls.mls.structures import extensions as mls_extensions
from slixmpp_mls.mls.structures import framing
from slixmpp_mls.mls.structures import proposals as mls_proposals
from slixmpp_mls.mls.structures.credential import BasicCredential
from slixmpp_mls.mls.structures.framing import MLSMessage
from slixmpp_mls.mls.structures.key_package import KeyPackage
from slixmpp_mls.mls.structures.leaf_node import Lifetime
from slixmpp_mls.mls.structures.psk import ExternalPSK, PreSharedKeyID, ResumptionPSK, ResumptionPSKUsage
from slixmpp_mls.mls.structures.welcome import GroupInfo, Welcome
from slixmpp_mls.mls.tree.leaf_creation import KeyPackageBundle, OwnLeaf, capabilities, create_key_package
from tests.mls.observer import follow

from .peers import (
    Add,
    Can,
    Client,
    Commit,
    Extension,
    ExternalPsk,
    Founded,
    Group,
    GroupState,
    Phase,
    Proposal,
    Received,
    Refused,
    ReInit,
    Remove,
    ResumptionPsk,
    SetExtensions,
    Update,
)

# mls-rs makes KeyPackages that last a year.
PARAMETERS = Parameters(lifetime_limit=366 * DAY)


def _now() -> int:
    return int(time.time())


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except MLSError as error:
        raise Refused(f"{type(error).__name__}: {error}") from error


def _to_core(extensions: Sequence[Extension]) -> tuple[mls_extensions.Extension, ...]:
    return tuple(mls_extensions.Extension(extension.type, extension.data) for extension in extensions)


def _key_package(message: bytes) -> KeyPackage:
    body = MLSMessage.decode(message).body
    if not isinstance(body, KeyPackage):
        raise Refused("not a KeyPackage")
    return body


def _group_info(message: bytes) -> GroupInfo:
    body = MLSMessage.decode(message).body
    if not isinstance(body, GroupInfo):
        raise Refused("not a GroupInfo")
    return body


class OurPeer:
    """slixmpp_mls.mls."""

    name: ClassVar[str] = "ours"
    suites: ClassVar[frozenset[int]] = frozenset(CipherSuiteId)
    can: ClassVar[frozenset[Can]] = frozenset(Can)

    def client(
        self, identity: bytes, suite: int, *, tree_in_welcome: bool = True, extensions: Sequence[int] = ()
    ) -> OurClient:
        return OurClient(self, identity, suite, tree_in_welcome, extensions)


class OurClient:
    """A client of the core, with what an application keeps for it."""

    def __init__(
        self, peer: OurPeer, identity: bytes, suite: int, tree_in_welcome: bool, extensions: Sequence[int]
    ) -> None:
        self.peer = peer
        self.identity = identity
        self.suite = suite
        self.tree_in_welcome = tree_in_welcome
        self.cipher_suite = CipherSuite.get(suite)
        self.own_leaf = OwnLeaf(
            BasicCredential(identity), self.cipher_suite.generate_signature_key(), capabilities(extensions=extensions)
        )
        self._bundles: dict[bytes, bytes] = {}
        self._psks: dict[bytes, bytes] = {}
        self._groups: dict[bytes, OurGroup] = {}

    def new_bundle(self, lifetime: tuple[int, int] | None = None, *, last_resort: bool = False) -> KeyPackageBundle:
        now = _now()
        valid = Lifetime(*(lifetime or (now - HOUR, now + 28 * DAY)))
        return create_key_package(self.cipher_suite, self.own_leaf, valid, last_resort=last_resort)

    def find_psk(self, name: ExternalPSK | ResumptionPSK) -> bytes | None:
        return self._psks.get(name.psk_id) if isinstance(name, ExternalPSK) else None

    def enter(self, state: MLSGroupState) -> OurGroup:
        assert isinstance(state, MLSGroup)
        group = self._groups[state.group_id] = OurGroup(self, state)
        return group

    def leave(self, group_id: bytes) -> None:
        del self._groups[group_id]

    def key_package(self, *, lifetime: tuple[int, int] | None = None, last_resort: bool = False) -> bytes:
        return self._publish(self.new_bundle(lifetime, last_resort=last_resort))

    def _publish(self, bundle: KeyPackageBundle) -> bytes:
        self._bundles[bundle.reference] = bundle.encode()
        return MLSMessage.wrap(bundle.key_package)

    def create_group(self, group_id: bytes, extensions: Sequence[Extension] = ()) -> OurGroup:
        with _refusals():
            return self.enter(
                MLSGroup.create(self.new_bundle(), group_id, extensions=_to_core(extensions), parameters=PARAMETERS)
            )

    def join(self, welcome: bytes, ratchet_tree: bytes | None = None, *, resumed: Group | None = None) -> OurGroup:
        def groups(group_id: bytes) -> MLSGroupState | None:
            if isinstance(resumed, OurGroup) and resumed.core.group_id == group_id:
                return resumed.core
            group = self._groups.get(group_id)
            return None if group is None else group.core

        with _refusals():
            body = MLSMessage.decode(welcome).body
            if not isinstance(body, Welcome):
                raise Refused("not a Welcome")
            reference = next((entry.new_member for entry in body.secrets if entry.new_member in self._bundles), None)
            if reference is None:
                raise Refused("the Welcome is for none of this client's KeyPackages")
            bundle = KeyPackageBundle.decode(self._bundles[reference])
            staged = MLSGroup.join(
                body, bundle, tree=ratchet_tree, psks=self.find_psk, groups=groups, parameters=PARAMETERS
            )
        assert staged.reference == reference
        if not bundle.last_resort:
            del self._bundles[reference]
        return self.enter(staged.state)

    def external_join(
        self, group_info: bytes, ratchet_tree: bytes | None = None, *, resync: bool = False
    ) -> tuple[OurGroup, bytes]:
        with _refusals():
            info = _group_info(group_info)
            replaces = None
            if resync:
                key = self.own_leaf.signature_key.public
                replaces = follow(info, tree=ratchet_tree).tree.leaf_by_signature_key(key)
                if replaces is None:
                    raise Refused("nothing to resync: this client is not in the tree")
            made = MLSGroup.external_commit(
                info, self.own_leaf, now=_now(), tree=ratchet_tree, replaces=replaces, parameters=PARAMETERS
            )
            return self.enter(_won(made)), made.commit

    def propose_join(self, group_info: bytes) -> bytes:
        with _refusals():
            public = follow(_group_info(group_info))
            bundle = self.new_bundle()
            self._publish(bundle)
            sender = framing.NewMemberProposalSender()
            return external_proposal(public, sender, mls_proposals.Add(bundle.key_package), self.own_leaf.signature_key)

    def external_sender(self) -> bytes:
        leaf = self.own_leaf
        return mls_extensions.ExternalSender(leaf.signature_key.public, leaf.credential).encode()

    def propose_external(self, group_info: bytes, sender_index: int, proposal: Add | Remove) -> bytes:
        with _refusals():
            made: mls_proposals.AnyProposal
            match proposal:
                case Add(key_package):
                    made = mls_proposals.Add(_key_package(key_package))
                case Remove(index):
                    made = mls_proposals.Remove(index)
            public = follow(_group_info(group_info))
            sender = framing.ExternalSenderIndex(sender_index)
            return external_proposal(public, sender, made, self.own_leaf.signature_key)

    def register_psk(self, psk_id: bytes, secret: bytes) -> None:
        self._psks[psk_id] = secret


def _won(made: CommitBundle) -> MLSGroup:
    """The group after a Commit that nobody can contest."""
    assert isinstance(made.sent, MLSGroup)
    return made.sent.apply(made.staged, now=_now())


class OurGroup:
    """A group of the core, and what a store has of it."""

    def __init__(self, client: OurClient, core: MLSGroup) -> None:
        self._client = client
        self._core = core.stored()
        self._kept = core.pieces()
        self._staged: tuple[bytes, StagedCommit] | None = None
        self._removed = False

    @property
    def client(self) -> OurClient:
        return self._client

    @property
    def core(self) -> MLSGroup:
        return self._core

    def store(self, core: MLSGroup) -> None:
        """Go on from another state, having written what is different in it."""
        for name, value in core.changes_since(self._core).items():
            if value is None:
                self._kept.pop(name, None)
            else:
                self._kept[name] = value
        self._core = core.stored()

    def _require_member(self) -> None:
        if self._removed:
            raise Refused("no member of this group any more")

    def _proposal(self, proposal: Proposal) -> mls_proposals.AnyProposal:
        nonce = os.urandom(self._core.suite.hash_length)
        match proposal:
            case Add(key_package):
                return mls_proposals.Add(_key_package(key_package))
            case Remove(index):
                return mls_proposals.Remove(index)
            case ExternalPsk(psk_id):
                return mls_proposals.PreSharedKey(PreSharedKeyID(ExternalPSK(psk_id), nonce))
            case ResumptionPsk(epoch):
                name = ResumptionPSK(ResumptionPSKUsage.APPLICATION, self._core.group_id, epoch)
                return mls_proposals.PreSharedKey(PreSharedKeyID(name, nonce))
            case SetExtensions(extensions):
                return mls_proposals.GroupContextExtensions(_to_core(extensions))
            case ReInit(group_id, suite, extensions):
                return mls_proposals.ReInit(group_id, ProtocolVersion.MLS10, suite, _to_core(extensions))
            case Update():
                raise Refused("RFC 9420 12.2: an Update of the committer's own is not committed")

    def commit(
        self,
        proposals: Sequence[Proposal] = (),
        *,
        private: bool | None = None,
        force_path: bool = False,
        aad: bytes = b"",
    ) -> Commit:
        self._require_member()
        options = CommitOptions(
            path=True if force_path else None,
            public=private is False,
            tree_in_welcome=self._client.tree_in_welcome,
            group_info=True,
            authenticated_data=aad,
        )
        with _refusals():
            made = self._core.commit(
                [self._proposal(proposal) for proposal in proposals],
                now=_now(),
                options=options,
                psks=self._client.find_psk,
            )
        return self.hold(made)

    def hold(self, made: CommitBundle) -> Commit:
        """Keep a Commit until :meth:`process` is given it."""
        assert isinstance(made.sent, MLSGroup)
        assert made.staged.next is not None
        self.store(made.sent)
        self._staged = made.commit, made.staged
        return Commit(made.commit, made.welcome, made.staged.next.tree.encode(), made.group_info)

    def propose(self, proposal: Proposal, *, private: bool | None = None, aad: bytes = b"") -> bytes:
        self._require_member()
        public = private is False
        with _refusals():
            if isinstance(proposal, Update):
                message, core = self._core.propose_update(now=_now(), public=public)
            else:
                message, core = self._core.propose(
                    self._proposal(proposal), now=_now(), public=public, authenticated_data=aad
                )
        self.store(core)
        return message

    def process(self, message: bytes) -> Received:
        self._require_member()
        if self._staged is not None and self._staged[0] == message:
            own = self._staged[1]
            self._staged = None
            self.store(self._core.apply(own, now=_now()))
            return Received("commit", self._core.own_index)
        with _refusals():
            found = self._core.process(message, now=_now(), psks=self._client.find_psk)
            if isinstance(found, StagedCommit):
                return self._follow(found)
            self.store(self._core.apply(found, now=_now()))
        if isinstance(found, ReceivedProposal):
            return Received("proposal", _index_of(found.sender))
        assert isinstance(found, ReceivedMessage)
        return Received("application", found.sender, found.data, found.authenticated_data)

    def _follow(self, staged: StagedCommit) -> Received:
        if staged.next is None:
            self._removed = True
            self._client.leave(self._core.group_id)
        else:
            self.store(self._core.apply(staged, now=_now()))
        self._staged = None
        return Received("commit", _index_of(staged.effects.committer), removed=staged.next is None)

    def encrypt(self, data: bytes, aad: bytes = b"") -> bytes:
        self._require_member()
        with _refusals():
            message, core = self._core.encrypt(data, aad)
        self.store(core)
        return message

    def group_info(self, *, tree: bool = True) -> bytes:
        return self._core.group_info(tree=tree)

    def export_secret(self, label: str, context: bytes, length: int) -> bytes:
        return self._core.export(label, context, length)

    def state(self) -> GroupState:
        context = self._core.context
        phase: Phase = "removed" if self._removed else "active" if self._core.closed is None else "reinit"
        return GroupState(
            group_id=context.group_id,
            epoch=context.epoch,
            tree_hash=context.tree_hash,
            confirmed_transcript_hash=context.confirmed_transcript_hash,
            extensions=tuple(Extension(each.extension_type, each.extension_data) for each in context.extensions),
            ratchet_tree=self._core.tree.encode(),
            own_index=self._core.own_index,
            epoch_authenticator=self._core.epoch_authenticator,
            phase=phase,
        )

    def holds_authenticator(self, value: bytes) -> bool:
        return value == self._core.epoch_authenticator

    def reload(self) -> None:
        waiting = None if self._staged is None else self._core.staged_pieces(self._staged[1])
        core = MLSGroup.restore(self._kept.items(), PARAMETERS)
        assert core.pieces() == self._core.pieces() == self._kept
        self._core = core
        if self._staged is not None and waiting is not None:
            self._staged = self._staged[0], core.restore_staged(waiting)

    def reinit(self, client: Client, key_packages: Sequence[bytes]) -> Founded:
        assert isinstance(client, OurClient)
        with _refusals():
            others = [_key_package(package) for package in key_packages]
            made = self._core.draft_reinitialize(
                client.new_bundle(), others, now=_now(), options=_founding(client)
            ).finish()
        return _founded(client, made)

    def branch(self, group_id: bytes, key_packages: Sequence[bytes]) -> Founded:
        client = self._client
        with _refusals():
            others = [_key_package(package) for package in key_packages]
            made = self._core.draft_branch(
                group_id, client.new_bundle(), others, now=_now(), options=_founding(client)
            ).finish()
        return _founded(client, made)


def _founding(client: OurClient) -> CommitOptions:
    return CommitOptions(tree_in_welcome=client.tree_in_welcome)


def _founded(client: OurClient, made: CommitBundle) -> Founded:
    assert made.welcome is not None
    group = client.enter(_won(made))
    return Founded(group, made.welcome, group.core.tree.encode())


def _index_of(sender: framing.AnySender) -> int | None:
    return sender.leaf_index if isinstance(sender, framing.MemberSender) else None
