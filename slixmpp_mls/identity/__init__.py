"""Whose leaf it is: the names of accounts and devices, and the certificates that carry them."""

from .client_identity import *  # noqa: F403
