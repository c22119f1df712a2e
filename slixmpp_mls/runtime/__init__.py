"""What the parts of one running client share: its context, settings, tasks, clock, login, connection and store."""

from .clock import SteadyClock
from .context import Context
from .settings import DeniedMembers, GrantRequests, NewDevices, RejoinMode, Settings
from .tasks import Tasks

__all__ = ["Context", "DeniedMembers", "GrantRequests", "NewDevices", "RejoinMode", "Settings", "SteadyClock", "Tasks"]
