"""What cannot be collected on every Python."""

import sys

# aioxmpp needs lxml 4, which does not install on Python 3.13; so does the extra "test" in pyproject.toml.
collect_ignore = ["test_bindings.py"] if sys.version_info >= (3, 13) else []
