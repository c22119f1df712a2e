"""Eight people in a room for a quarter of an hour in which everything goes wrong: ``python -m tests.soak --help``.

Each is a process of its own with a store on the disk, on a real server.  At random they talk, renew keys, come, go
and are removed; processes are killed (SIGKILL) and started again, connections cut, the server restarted and killed.
In the end everybody comes back, and then all members must agree on who is in the group, on its epoch and its
authenticator, and on what has been said, in which order.

::

    run.py ── lines of JSON ──► bot.py (8) ──► server
        └── reads ◄── one file for each bot of what it has heard, written before its handler returns

What is done is decided by the seed.  When it happens, and what meets what, is not: two runs with one seed differ.
"""
