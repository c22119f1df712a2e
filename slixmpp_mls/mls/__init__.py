"""The Messaging Layer Security protocol (RFC 9420): values and functions, without I/O, clock or XMPP.

Theory of operation
-------------------

A :class:`Group` is one member's view of a group in one epoch.  It is an immutable value.  Sending returns the message
and the next value.  Receiving verifies a message completely and returns a staged result; :meth:`Group.apply` turns it
into the next value.  A refused message therefore has changed nothing, and a Commit that loses its race costs no more
than dropping a value.  Values of successive epochs share all that stayed the same, so that a message costs one
ratchet and a Commit O(log n) nodes, in memory as in a store.

The caller gives every time (seconds since the Unix epoch), the randomness of a test, and the verdict of the
Authentication Service.  Every refusal is a :class:`~slixmpp_mls.errors.PeerError` that names the section it rests on.

Reading order
-------------

Each package imports only from those above it in this table.

=========================  =============  ==========================================================================
package                    RFC 9420       content
=========================  =============  ==========================================================================
``varint, tls``            2.1            the presentation language: one declaration per structure
``late_vector``                           a vector whose items are decoded when somebody asks for one
``layered_map``                           an immutable map for many entries of which few change
``registry, parameters``   17             code points; the limits that a deployment sets
``crypto``                 5              cipher suites, HPKE, signatures
``structures``             6, 7, 10, 12   the structures on the wire, in wire order
``tree``                   4, 7, C        the ratchet tree, its hashes, its leaves, TreeKEM
``schedule``               6, 8, 9        key schedule, secret tree, transcript, message protection
``group``                  11, 12         creating, joining, proposing, committing; the state and its storage
``partial``                               membership without the ratchet tree (draft-ietf-mls-partial)
=========================  =============  ==========================================================================

``xml_form`` stands beside them: it derives an XML form of every structure from the same declarations.
"""

from .crypto.cipher_suite import CipherSuite
from .group.commit_creation import CommitBundle, CommitOptions
from .group.commit_effects import ChangeKind, Effects
from .group.group import Group, external_proposal
from .group.joining import StagedJoin
from .group.message_processing import ReceivedMessage, ReceivedProposal
from .group.staging import StagedCommit
from .parameters import Parameters
from .structures.framing import MLSMessage
from .tree.leaf_creation import KeyPackageBundle, OwnLeaf, create_key_package

__all__ = [
    "ChangeKind",
    "CipherSuite",
    "CommitBundle",
    "CommitOptions",
    "Effects",
    "Group",
    "KeyPackageBundle",
    "MLSMessage",
    "OwnLeaf",
    "Parameters",
    "ReceivedMessage",
    "ReceivedProposal",
    "StagedCommit",
    "StagedJoin",
    "create_key_package",
    "external_proposal",
]
