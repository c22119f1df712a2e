"""Fakes for tests: a room, a directory, a store and a world of members. Production code never imports them."""

from .world import *  # noqa: F403
