"""What every MLS implementation offers to the interoperability scenarios.

A :class:`Peer` is one implementation.  It makes :class:`Client` objects (one identity, one cipher suite,
one signature key), and those make :class:`Group` objects (one client's membership in one group).  Everything
that crosses from one peer to another is bytes as they would go over the wire: whole ``MLSMessage`` structures,
and the bare ``ratchet_tree`` vector where a tree travels beside its Welcome.

Rules that an implementation of these protocols keeps:

* ``commit`` and ``propose`` return what is to be sent.  A commit is only staged: the group moves on when
  ``process`` is given that same message, as if the room had reflected it, and the staged commit is dropped when
  ``process`` accepts another commit first.  A commit covers every proposal received or sent in its epoch.
* Own proposals and application messages are not given back to the group that made them.
* Whatever the implementation refuses is raised as :class:`Refused`, and leaves the group as it was.
* What it has no way to do is raised as :class:`Unsupported`.  Scenarios ask ``can`` beforehand and are skipped,
  with the missing capability named, when the tests are collected; so ``can`` and ``suites`` are class attributes,
  readable without starting anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Literal, Protocol

Phase = Literal["active", "removed", "reinit"]
REQUIRED_CAPABILITIES = 0x0003
EXTERNAL_SENDERS = 0x0005


class PeerError(Exception):
    """Anything that goes wrong in a peer; the subclasses say what."""


class Refused(PeerError):
    """The implementation refused: a bad message, or a request against its rules.  The group is as it was."""


class Unsupported(PeerError):
    """The implementation, or its binding, has no such operation."""


class Broken(PeerError):
    """The rig itself failed: a process that died or did not answer."""


class Can(StrEnum):
    """What a peer may be able to do beyond creating, adding by commit, joining by Welcome and talking."""

    AAD = "send and report authenticated_data"
    BRANCH = "branch a subgroup, and join one"
    CUSTOM_EXTENSIONS = "declare extension types of its own in capabilities"
    EMPTY_COMMIT = "commit without proposals"
    EXTERNAL_JOIN = "join by external commit"
    EXTERNAL_PSK = "register external PSKs and commit them"
    EXTERNAL_SENDER = "propose as an external sender"
    FOLLOW_EXTENSIONS = "follow a GroupContextExtensions proposal"
    FOLLOW_EXTERNAL_JOIN = "follow another's external commit"
    FOLLOW_EXTERNAL_SENDER = "accept proposals of external senders"
    FOLLOW_PROPOSE_JOIN = "accept Add proposals of new members"
    FORCE_PATH = "add a path to a commit that needs none"
    GROUP_INFO = "publish a GroupInfo with external_pub"
    MIXED_COMMIT = "commit several kinds of proposals by value"
    PRIVATE_HANDSHAKE = "send handshake messages as PrivateMessage"
    PROPOSE_ADD = "propose an Add"
    PROPOSE_EXTENSIONS = "propose and commit GroupContextExtensions"
    PROPOSE_JOIN = "propose its own Add from outside"
    PROPOSE_REMOVE = "propose a Remove"
    PROPOSE_UPDATE = "propose an Update"
    PUBLIC_HANDSHAKE = "send handshake messages as PublicMessage"
    READ_DEPARTED = "read late messages of members removed since"
    REINIT = "reinitialise a group, and follow into the new one"
    RELOAD = "serialise a group and go on from the copy"
    REMOVE = "commit a Remove by value"
    RESUMPTION_PSK = "use a resumption PSK of an earlier epoch"
    RESYNC = "rejoin by an external commit that removes its own old leaf"
    SPARE_KEYS = "keep the key of a private message until one opens"
    TREE_BESIDE = "leave the ratchet tree out of a Welcome"


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension of the GroupContext."""

    type: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Add:
    """Add the client of ``key_package``, an MLSMessage."""

    key_package: bytes


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove the member at leaf ``index``."""

    index: int


@dataclass(frozen=True, slots=True)
class Update:
    """Replace the proposer's own leaf key; only by reference."""


@dataclass(frozen=True, slots=True)
class ExternalPsk:
    """Inject the external PSK registered under ``psk_id``."""

    psk_id: bytes


@dataclass(frozen=True, slots=True)
class ResumptionPsk:
    """Inject this group's resumption PSK of ``epoch``, with usage ``application``."""

    epoch: int


@dataclass(frozen=True, slots=True)
class SetExtensions:
    """Replace the extensions of the GroupContext."""

    extensions: tuple[Extension, ...]


@dataclass(frozen=True, slots=True)
class ReInit:
    """Close the group in favour of a new one with these parameters."""

    group_id: bytes
    suite: int
    extensions: tuple[Extension, ...] = ()


Proposal = Add | Remove | Update | ExternalPsk | ResumptionPsk | SetExtensions | ReInit


@dataclass(frozen=True, slots=True)
class Commit:
    """What a committer sends: the Commit, and for added members a Welcome.

    ``ratchet_tree`` is the new epoch's tree where the implementation gives it out; ``group_info`` the new
    epoch's GroupInfo with ``external_pub`` where it makes one.
    """

    message: bytes
    welcome: bytes | None
    ratchet_tree: bytes | None = None
    group_info: bytes | None = None


@dataclass(frozen=True, slots=True)
class Founded:
    """A group made from another one by ReInit or branching, already at epoch 1, and the way in for the others."""

    group: Group
    welcome: bytes
    ratchet_tree: bytes | None


@dataclass(frozen=True, slots=True)
class Received:
    """What ``process`` found.

    ``sender`` is a leaf index in the epoch of the message; None for one who is not a member, or where the
    implementation does not say.  ``data`` and ``aad`` belong to application messages; ``aad`` is None where the
    implementation does not report it.  ``removed``: this commit removed the member that processed it.
    """

    kind: Literal["application", "proposal", "commit"]
    sender: int | None = None
    data: bytes | None = None
    aad: bytes | None = None
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """A non-blank leaf with a Basic credential."""

    index: int
    identity: bytes


@dataclass(frozen=True, slots=True)
class GroupState:
    """One member's view of the group.  ``epoch_authenticator`` is None where the implementation hides it."""

    group_id: bytes
    epoch: int
    tree_hash: bytes
    confirmed_transcript_hash: bytes
    extensions: tuple[Extension, ...]
    ratchet_tree: bytes
    own_index: int
    epoch_authenticator: bytes | None
    phase: Phase = "active"


class Group(Protocol):
    """One client's membership in one group."""

    @property
    def client(self) -> Client: ...

    def commit(
        self,
        proposals: Sequence[Proposal] = (),
        *,
        private: bool | None = None,
        force_path: bool = False,
        aad: bytes = b"",
    ) -> Commit:
        """Stage a commit of ``proposals`` by value and of all known ones by reference.

        ``private`` chooses PrivateMessage or PublicMessage, None the implementation's habit.
        """

    def propose(self, proposal: Proposal, *, private: bool | None = None, aad: bytes = b"") -> bytes: ...

    def process(self, message: bytes) -> Received: ...

    def encrypt(self, data: bytes, aad: bytes = b"") -> bytes: ...

    def group_info(self, *, tree: bool = True) -> bytes:
        """A GroupInfo with ``external_pub``, and with the ratchet tree unless told otherwise."""

    def export_secret(self, label: str, context: bytes, length: int) -> bytes: ...

    def state(self) -> GroupState: ...

    def holds_authenticator(self, value: bytes) -> bool:
        """Whether ``value`` is this member's epoch authenticator, even where ``state`` cannot show it."""

    def reload(self) -> None:
        """Serialise the group, and go on from what is read back."""

    def reinit(self, client: Client, key_packages: Sequence[bytes]) -> Founded:
        """After a committed ReInit: found the new group as ``client`` with the owners of ``key_packages``."""

    def branch(self, group_id: bytes, key_packages: Sequence[bytes]) -> Founded: ...


class Client(Protocol):
    """One identity with one signature key for one cipher suite."""

    @property
    def peer(self) -> Peer: ...
    @property
    def identity(self) -> bytes: ...
    @property
    def suite(self) -> int: ...

    def key_package(self, *, lifetime: tuple[int, int] | None = None) -> bytes:
        """A KeyPackage as MLSMessage.  ``lifetime``: not_before and not_after in seconds since 1970, else valid now."""

    def create_group(self, group_id: bytes, extensions: Sequence[Extension] = ()) -> Group: ...

    def join(self, welcome: bytes, ratchet_tree: bytes | None = None, *, resumed: Group | None = None) -> Group:
        """Join by Welcome; ``resumed`` is the old group when the new one came of ReInit or branching."""

    def external_join(
        self, group_info: bytes, ratchet_tree: bytes | None = None, *, resync: bool = False
    ) -> tuple[Group, bytes]:
        """Join by external commit.  The returned group is already in the new epoch; the bytes are the commit."""

    def propose_join(self, group_info: bytes) -> bytes:
        """An Add proposal from outside; the client can then join by the Welcome it leads to."""

    def external_sender(self) -> bytes:
        """This client as an ``ExternalSender`` structure, for the ``external_senders`` extension."""

    def propose_external(self, group_info: bytes, sender_index: int, proposal: Add | Remove) -> bytes: ...

    def register_psk(self, psk_id: bytes, secret: bytes) -> None: ...


class Peer(Protocol):
    """One MLS implementation."""

    name: ClassVar[str]
    suites: ClassVar[frozenset[int]]
    can: ClassVar[frozenset[Can]]

    def client(
        self, identity: bytes, suite: int, *, tree_in_welcome: bool = True, extensions: Sequence[int] = ()
    ) -> Client:
        """A client with a new signature key.

        ``tree_in_welcome``: whether its Welcomes carry the ratchet tree.  ``extensions``: types that its
        KeyPackages declare support for.
        """
