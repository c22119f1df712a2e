"""Who may do what in a group: the policy in its GroupContext, the proofs of admission, and the check of a Commit.

==========================  ==================================================================================
:mod:`.room_policy`         the policy: an extension of the GroupContext
:mod:`.removed_clients`     who does not come back by itself: another one
:mod:`.proofs`              what proves an arrival: extensions of leaves
:mod:`.roster`              which account has which leaves
:mod:`.view`                what all members see alike: all that a Commit is judged by
:mod:`.admission`           by what right a leaf comes in
:mod:`.check`               the table of what a Commit may do, and the function that follows it
==========================  ==================================================================================
"""

from .proofs import *  # noqa: F403
from .removed_clients import *  # noqa: F403
from .room_policy import *  # noqa: F403
from .view import *  # noqa: F403
