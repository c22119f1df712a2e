"""Authorizes changes of a group: the policy in its GroupContext, the proofs of admission, and the check of a Commit.

==========================  ==================================================================================
:mod:`.room_policy`         the policy: an extension of the GroupContext
:mod:`.removed_clients`     removed clients that cannot rejoin on their own: another extension of the GroupContext
:mod:`.proofs`              proofs of admission: extensions of leaves
:mod:`.roster`              an index of the leaves by account and by client
:mod:`.view`                the group state that a Commit is judged by, the same for all members
:mod:`.admission`           the ground on which a leaf enters
:mod:`.check`               the table of permitted changes, and the function that implements it
:mod:`.later_state`         the judgement of a state that a client cannot follow Commit by Commit
:mod:`.without_tree`        the judgement of a Commit by a client without the ratchet tree
:mod:`.continuation`        the keys of a group that follows by a ReInit
:mod:`.versions`            what is of version 0.1 of this protocol
==========================  ==================================================================================
"""

from .proofs import *  # noqa: F403
from .removed_clients import *  # noqa: F403
from .room_policy import *  # noqa: F403
from .versions import *  # noqa: F403
from .view import *  # noqa: F403
