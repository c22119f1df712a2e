"""Who may do what in a group: the policy in its GroupContext, and the check of a Commit against it."""

from .room_policy import *  # noqa: F403
