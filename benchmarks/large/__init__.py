"""A room with tens of thousands of members on a real server.

::

    crowd.py   KeyPackages of devices that never come, in a file ──► the host's directory
    member.py  the host and the other real clients, each in a process of its own   ──► Prosody or ejabberd
    run.py     what they do, step by step, and what it cost

The crowd's accounts are not on the server: their lists of devices and their KeyPackages come from a file.  All else is
as in life: the host gives each account an affiliation, adds it by the plugin's `add`, with a Welcome, and invites it.
Real clients do what others do with so many members: they follow, join, talk, commit, remove, are away, and restart.
"""
