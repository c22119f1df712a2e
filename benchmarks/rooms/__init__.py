"""What encryption costs in a room: real clients, in processes of their own, on a real server.

::

    this process ── lines of JSON ──► member.py   one or more encrypted clients     ┐
                 └─ lines of JSON ──► member.py   one or more clients without MLS   ┴─► Prosody or ejabberd

A process of its own for each client is what users have: in a single interpreter all occupants' decryption would stand
in one queue.  (With many occupants a process holds several clients, to save memory; `Crew` says how many.)  All of
them, and the server, share the machine's cores all the same.  Therefore nothing is compared across runs: encrypted
and plain rounds alternate, and besides times, which depend on who else uses the machine, the processor time per
delivered message is reported, which depends on it little.

Times between processes are differences of CLOCK_MONOTONIC, which is one clock for the whole machine.
"""
