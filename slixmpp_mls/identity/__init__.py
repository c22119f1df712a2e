"""The identity of a leaf: names of accounts and devices, and the certificates that contain them."""

from .client_identity import *  # noqa: F403
