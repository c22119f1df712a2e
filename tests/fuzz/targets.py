"""All targets, by name."""

from __future__ import annotations

from . import certificates, decoders, groups, partial
from .registry import TARGETS, Target

__all__ = ["TARGETS", "Target", "certificates", "decoders", "groups", "partial"]
