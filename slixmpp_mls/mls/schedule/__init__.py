"""Secrets of an epoch and what they protect (RFC 9420 6, 8, 9): key schedule, secret tree, message framing."""
