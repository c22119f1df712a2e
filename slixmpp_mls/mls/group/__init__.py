"""A group: creating it, joining it, and the Commits that change it (RFC 9420 11, 12)."""
