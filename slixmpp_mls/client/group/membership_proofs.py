"""The proofs by which a client joins before it has the ratchet tree (draft-ietf-mls-partial, Annotated Welcome).

A committer that puts the ratchet tree elsewhere adds this extension to the GroupInfo of its Welcome: its own membership
proof, which shows the leaf that has signed the GroupInfo, and those of the clients that it adds.  A joiner that finds
its own leaf there joins at once (:mod:`.welcome`), and fetches the tree afterwards.

The proofs are inside the GroupInfo, which is encrypted for the joiners.  Beside the Welcome they would show the room's
server the credentials and keys of the inviter and the joiners.

They promise nothing that is not checked: their hashes add up to the tree hash of the GroupContext, or they are of no
use, and the whole tree is fetched first.  The same holds for proofs that cannot be read, and for those that are missing
because there were too many.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Annotated, ClassVar, Self

from ...errors import MalformedError
from ...mls.structures.extensions import Extension, ExtensionContent
from ...mls.structures.leaf_node import LeafNode
from ...mls.structures.partial import MembershipProof
from ...mls.tls import AtMost, struct
from ...mls.tree.ratchet_tree import RatchetTree
from ...mls.tree.tree_math import LeafIndex
from ...mls.tree.tree_slice import prove
from ...stanza.code_points import MEMBERSHIP_PROOFS

__all__ = ["MAX_OCTETS", "MAX_PROOFS", "MembershipProofs"]

MAX_PROOFS = 64
"""Joiners whose proofs are read."""
MAX_OCTETS = 65_536
"""Octets of the extension that are written or read: two proofs among 50,000 have some 46,000 in suite 0xF001."""
MAX_FURTHER = 16_384
"""Octets beyond which no joiner but the first is proved, for the stanza's sake: some six among 50,000 in suite 1."""


@struct
class MembershipProofs(ExtensionContent):
    """In the GroupInfo of a Welcome: where the inviter and the joiners are in the tree that begins with its epoch.

    :ivar inviter: the signer of the GroupInfo
    :ivar joiners: clients that its Commit has added, the first ones of those that it has added
    """

    TYPE: ClassVar[int] = MEMBERSHIP_PROOFS
    inviter: MembershipProof
    joiners: Annotated[tuple[MembershipProof, ...], AtMost(MAX_PROOFS)]

    @classmethod
    def of(cls, tree: RatchetTree, inviter: LeafIndex, added: Iterable[LeafIndex]) -> Self | None:
        """The proofs of as many joiners as there is space for; None if there is space for none.

        :param tree: of the epoch that the Welcome leads into
        """
        first, joiners = prove(tree, inviter), list[MembershipProof]()
        octets = len(first.encode()) + 8  # for the length of the list
        for index in added:
            proof = prove(tree, index)
            octets += len(proof.encode())
            if octets > (MAX_FURTHER if joiners else MAX_OCTETS) or len(joiners) == MAX_PROOFS:
                break
            joiners.append(proof)
        return cls(first, tuple(joiners)) if joiners else None

    @classmethod
    def readable_in(cls, extensions: Iterable[Extension]) -> Self | None:
        """The proofs in a GroupInfo; None if there are none, or they cannot be read."""
        with suppress(MalformedError):
            for extension in extensions:
                if extension.extension_type == cls.TYPE and len(extension.extension_data) <= MAX_OCTETS:
                    return cls.decode(extension.extension_data)
        return None

    def of_joiner(self, leaf: LeafNode) -> MembershipProof | None:
        """The proof that shows a joiner's leaf; None if there is none."""
        return next((each for each in self.joiners if each.direct_path_nodes[:1] == (leaf,)), None)
