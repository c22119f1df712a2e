"""Real processes, killed at every write to the store and at every stanza that they send.

::

    pytest ── jobs ──► nursery ── fork ──► victim ── XMPP ──► server ◄── XMPP ── witnesses (in pytest)
       ◄──────────────── notes, exits ────────┘

A *story* is what a bot does in its life: it makes a room, adds people, talks, leaves.  Where its process can be
killed are the *points*: after each transaction that writes and each stanza that goes to the socket, and before the
first of each kind.  For each of them the story is told once, with an account, a room and a store of its own: the
process kills itself there (SIGKILL), another one takes up the store and goes on to the end.  Witnesses with the plugin
are in all the rooms; what they have seen is compared with what the victim says of itself.
"""
