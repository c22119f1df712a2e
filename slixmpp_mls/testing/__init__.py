"""Fakes for tests: a room, a directory, a store and a world of members. Production code never imports them."""

from .directory import FakeDirectory
from .muc import FakeMUC
from .room import FakeRoom, InFlight
from .store import FaultyStore, Killed
from .world import NOW, Participant, World, commit_against_policy

__all__ = [
    "NOW", "FakeDirectory", "FakeMUC", "FakeRoom", "FaultyStore", "InFlight", "Killed", "Participant", "World",
    "commit_against_policy",
]  # fmt: skip
