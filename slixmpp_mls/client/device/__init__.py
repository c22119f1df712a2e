"""One device of an account: its identity, its keys, its KeyPackages and its certificates."""

from .device import *  # noqa: F403
from .key_packages import *  # noqa: F403
