"""Real processes, killed at every write to the store and at every stanza that they send.

::

    pytest ── jobs ──► nursery ── fork ──► victim ── XMPP ──► server ◄── XMPP ── witnesses (in pytest)
       ◄──────────────── notes, exits ────────┘

A *story* is what a bot does in its life: it makes a room, adds people, talks, leaves.  Where its process can be
killed are the *points*: before and after each transaction that writes, before and after each stanza goes to the
socket; of requests that only ask, the first and the last of a kind.  For each of them the story is told once, with
an account, a room and a store of its own: the process kills itself there (SIGKILL), another one takes up the store
and goes on to the end.  Witnesses with the plugin are in all the rooms; what they have seen is compared with what the
victim says of itself.
"""
