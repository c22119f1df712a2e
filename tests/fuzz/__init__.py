"""Coverage-guided fuzzing of everything that reads what peers send.

::

    pip install -e '.[test,fuzz]'
    python -m tests.fuzz --minutes 10                  # each target for ten minutes
    python -m tests.fuzz --target stanza --minutes 1   # one of them
    python -m tests.fuzz --target stanza --replay FILE # what was found, once more

A target (:mod:`.targets`) reads octets, asserts what must hold for what it could read, and
lets nothing but :class:`~slixmpp_mls.errors.PeerError` out.  Seeds (:mod:`.seeds`) are made at
run time from the declarations and, where present, the official vectors.  Each target runs in
a process of its own (:mod:`.worker`), since libFuzzer ends the process when it is done.  The
input that is slowest for its size is recorded, and its work must be within a bound relative to
that size (:mod:`.work`).  The processes are forked from one that has instrumented the package
once (:mod:`.instrumented`).
"""
