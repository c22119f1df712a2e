"""AWS mls-rs as a peer, through the UniFFI binding of the wheel ``agentvault-mls-rs-uniffi``.

The binding offers cipher suite 1, Basic credentials, adding, removing, empty commits and the exporter, and little
else; what mls-rs follows when others send it is more than what it can be told to send.  The roster, the epoch and
the hashes are not in its interface: the tree is exported and read here, and the GroupContext is read from the front
of the state that the library hands to its storage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

from .peers import (
    Add,
    Can,
    Commit,
    Extension,
    Founded,
    Group,
    GroupState,
    Phase,
    Proposal,
    Received,
    Refused,
    Remove,
    Unsupported,
)
from .tree import Reader, read_tree

SUITE = 1
# Tests are collected, with this peer among them, on machines that the wheel does not exist for.
lib: Any = import_module("mls_rs_uniffi") if find_spec("mls_rs_uniffi") else None
_StorageBase: Any = lib.GroupStateStorage if lib else object


def missing() -> str | None:
    """Why mls-rs cannot run here, as a line that says what to install; None if it can."""
    return (
        None if lib else "the outside peer mls-rs is missing: pip install '.[test]' (its wheel exists for x86_64 only)"
    )


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except lib.Error as error:
        raise Refused(f"{type(error).__name__}: {error}") from error
    except lib.InternalError as error:  # a panic in the binding, at what it has not implemented
        raise Unsupported(f"mls-rs: {error}") from error


class _Storage(_StorageBase):  # type: ignore[misc]  # the binding has no types
    """Keeps groups in memory; the library calls it by these names."""

    def __init__(self) -> None:
        self.states: dict[bytes, bytes] = {}
        self.epochs: dict[bytes, dict[int, bytes]] = {}

    def state(self, group_id: bytes) -> bytes | None:
        return self.states.get(group_id)

    def epoch(self, group_id: bytes, epoch_id: int) -> bytes | None:
        return self.epochs.get(group_id, {}).get(epoch_id)

    def write(self, group_id: bytes, group_state: bytes, epoch_inserts: list[Any], epoch_updates: list[Any]) -> None:
        self.states[group_id] = group_state
        kept = self.epochs.setdefault(group_id, {})
        kept.update((record.id, record.data) for record in [*epoch_inserts, *epoch_updates])

    def max_epoch_id(self, group_id: bytes) -> int | None:
        return max(self.epochs.get(group_id, {}), default=None)


def _identity_of(identity: bytes) -> Any:
    """A ``SigningIdentity`` to name a member by.

    The binding has no roster to take one from.  It looks members up by their credential alone, so the signing
    identity of a throw-away client with the same name does.
    """
    return MlsRsClient(identity).handle.signing_identity()


class MlsRsGroup:
    """A group of mls-rs."""

    def __init__(self, client: MlsRsClient, handle: Any, group_id: bytes) -> None:
        self._client = client
        self._handle = handle
        self._group_id = group_id
        self._phase: Phase = "active"

    @property
    def client(self) -> MlsRsClient:
        return self._client

    def commit(
        self,
        proposals: Sequence[Proposal] = (),
        *,
        private: bool | None = None,
        force_path: bool = False,
        aad: bytes = b"",
    ) -> Commit:
        if private or force_path or aad:
            raise Unsupported("mls-rs: options of a commit")
        adds = [proposal.key_package for proposal in proposals if isinstance(proposal, Add)]
        removes = [proposal.index for proposal in proposals if isinstance(proposal, Remove)]
        if len(adds) + len(removes) < len(proposals) or (adds and removes):
            raise Unsupported("mls-rs: commits have only Adds, only Removes, or nothing by value")
        with _refusals():
            if adds:
                made = self._handle.add_members([lib.Message.from_bytes(add) for add in adds])
            elif removes:
                made = self._handle.remove_members(self._members(removes))
            else:
                made = self._handle.commit()
            welcome = made.welcome_message.to_bytes() if made.welcome_message else None
            tree = made.ratchet_tree.bytes if made.ratchet_tree else None
            return Commit(made.commit_message.to_bytes(), welcome, tree)

    def propose(self, proposal: Proposal, *, private: bool | None = None, aad: bytes = b"") -> bytes:
        if private or aad:
            raise Unsupported("mls-rs: options of a proposal")
        with _refusals():
            match proposal:
                case Add(key_package):
                    [message] = self._handle.propose_add_members([lib.Message.from_bytes(key_package)])
                case Remove(index):
                    [message] = self._handle.propose_remove_members(self._members([index]))
                case _:
                    raise Unsupported(f"mls-rs: propose {type(proposal).__name__}")
            return bytes(message.to_bytes())

    def _members(self, indices: Sequence[int]) -> list[Any]:
        tree = read_tree(self._tree())
        return [_identity_of(tree.identity_of(index)) for index in indices]

    def process(self, message: bytes) -> Received:
        with _refusals():
            found = self._handle.process_incoming_message(lib.Message.from_bytes(message))
        if found.is_application_message():
            return Received("application", data=found.data)
        if found.is_received_proposal():
            return Received("proposal")
        if not found.is_commit():
            raise Refused("mls-rs: not a message of the group")
        if found.effect.is_removed():
            self._phase = "removed"
        elif found.effect.is_re_init():
            self._phase = "reinit"
        return Received("commit", removed=self._phase == "removed")

    def encrypt(self, data: bytes, aad: bytes = b"") -> bytes:
        if aad:
            raise Unsupported("mls-rs: authenticated_data")
        with _refusals():
            return bytes(self._handle.encrypt_application_message(data).to_bytes())

    def group_info(self, *, tree: bool = True) -> bytes:
        raise Unsupported("mls-rs: GroupInfo")

    def export_secret(self, label: str, context: bytes, length: int) -> bytes:
        with _refusals():
            return bytes(self._handle.export_secret(label.encode(), context, length))

    def _tree(self) -> bytes:
        with _refusals():
            return bytes(self._handle.export_tree().bytes)

    def _stored(self) -> bytes:
        with _refusals():
            self._handle.write_to_storage()
        stored = self._client.storage.state(self._group_id)
        assert stored is not None
        return stored

    def state(self) -> GroupState:
        context = Reader(self._stored())
        context.uint(2)  # version of the storage format
        context.uint(2)  # from here on a GroupContext (RFC 9420 8.1): version, cipher suite
        context.uint(2)
        group_id, epoch = context.vector(), context.uint(8)
        tree_hash, transcript_hash, extensions = context.vector(), context.vector(), context.extensions()
        tree = self._tree()
        own = [member.index for member in read_tree(tree).members if member.identity == self._client.identity]
        return GroupState(
            group_id=group_id,
            epoch=epoch,
            tree_hash=tree_hash,
            confirmed_transcript_hash=transcript_hash,
            extensions=extensions,
            ratchet_tree=tree,
            own_index=own[0] if own else -1,
            epoch_authenticator=None,
            phase=self._phase,
        )

    def holds_authenticator(self, value: bytes) -> bool:
        # The stored state contains the secret in the clear, and 32 random bytes do not appear there by chance.
        return len(value) >= 32 and value in self._stored()

    def reload(self) -> None:
        self._stored()
        with _refusals():
            self._handle = self._client.handle.load_group(self._group_id)

    def reinit(self, client: object, key_packages: Sequence[bytes]) -> Founded:
        raise Unsupported("mls-rs: ReInit")

    def branch(self, group_id: bytes, key_packages: Sequence[bytes]) -> Founded:
        raise Unsupported("mls-rs: branching")


class MlsRsClient:
    """A client of mls-rs."""

    suite = SUITE

    def __init__(self, identity: bytes, *, tree_in_welcome: bool = True) -> None:
        self.identity = identity
        self.storage = _Storage()
        keys = lib.generate_signature_keypair(lib.CipherSuite.CURVE25519_AES128)
        config = lib.ClientConfig(group_state_storage=self.storage, use_ratchet_tree_extension=tree_in_welcome)
        self.handle = lib.Client(identity, keys, config)

    @property
    def peer(self) -> MlsRsPeer:
        return MlsRsPeer()

    def key_package(self, *, lifetime: tuple[int, int] | None = None) -> bytes:
        if lifetime:
            raise Unsupported("mls-rs: lifetime of a KeyPackage")
        with _refusals():
            return bytes(self.handle.generate_key_package_message().to_bytes())

    def create_group(self, group_id: bytes, extensions: Sequence[Extension] = ()) -> MlsRsGroup:
        if extensions:
            raise Unsupported("mls-rs: extensions of a new group")
        with _refusals():
            return MlsRsGroup(self, self.handle.create_group(group_id), group_id)

    def join(self, welcome: bytes, ratchet_tree: bytes | None = None, *, resumed: Group | None = None) -> MlsRsGroup:
        if resumed:
            raise Unsupported("mls-rs: ReInit and branching")
        tree = None if ratchet_tree is None else lib.RatchetTree(bytes=ratchet_tree)
        with _refusals():
            handle = self.handle.join_group(tree, lib.Message.from_bytes(welcome)).group
            before = dict(self.storage.states)
            handle.write_to_storage()
        # The binding does not say which group it joined: it is the one whose stored state is new.
        [group_id] = [name for name, stored in self.storage.states.items() if before.get(name) != stored]
        # Who returns to a group must not find the epochs of the first stay: mls-rs expects them without a gap.
        self.storage.epochs.pop(group_id, None)
        return MlsRsGroup(self, handle, group_id)

    def external_join(
        self, group_info: bytes, ratchet_tree: bytes | None = None, *, resync: bool = False
    ) -> tuple[MlsRsGroup, bytes]:
        raise Unsupported("mls-rs: external commits")

    def propose_join(self, group_info: bytes) -> bytes:
        raise Unsupported("mls-rs: proposals of new members")

    def external_sender(self) -> bytes:
        raise Unsupported("mls-rs: external senders")

    def propose_external(self, group_info: bytes, sender_index: int, proposal: Add | Remove) -> bytes:
        raise Unsupported("mls-rs: external senders")

    def register_psk(self, psk_id: bytes, secret: bytes) -> None:
        raise Unsupported("mls-rs: PSKs")


class MlsRsPeer:
    """AWS mls-rs 0.55 as far as its Python binding reaches."""

    name: ClassVar[str] = "mls-rs"
    suites: ClassVar[frozenset[int]] = frozenset({SUITE})
    can: ClassVar[frozenset[Can]] = frozenset(
        {
            Can.EMPTY_COMMIT,
            Can.FOLLOW_EXTENSIONS,
            Can.FOLLOW_EXTERNAL_JOIN,
            Can.PROPOSE_ADD,
            Can.PROPOSE_REMOVE,
            Can.PUBLIC_HANDSHAKE,
            Can.RELOAD,
            Can.REMOVE,
            Can.TREE_BESIDE,
        }
    )

    def client(
        self, identity: bytes, suite: int, *, tree_in_welcome: bool = True, extensions: Sequence[int] = ()
    ) -> MlsRsClient:
        if suite != SUITE or extensions:
            raise Unsupported("mls-rs: the binding has suite 1 only, and no extension types")
        return MlsRsClient(identity, tree_in_welcome=tree_in_welcome)
