"""What the parts of one running client share: its context, settings, tasks and clock; its login and connection."""

from .clock import SteadyClock
from .context import Context
from .settings import DeniedMembers, GrantRequests, NewDevices, RejoinMode, Settings
from .tasks import Tasks

__all__ = ["Context", "DeniedMembers", "GrantRequests", "NewDevices", "RejoinMode", "Settings", "SteadyClock", "Tasks"]
