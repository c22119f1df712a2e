"""Honest members on the real client layer, and an adversary that does to them what it can.

==================  ===========================================================================================
:mod:`.scene`       the honest side: who is there, what they do, and what everybody rightly wishes
:mod:`.adversary`   the hostile side: its powers, its keys, and the tools with which it forges
:mod:`.acts`        the catalogue of hostile acts, each with the powers that it takes
:mod:`.invariants`  what must hold after each step
:mod:`.machine`     both sides in one state machine of hypothesis
==================  ===========================================================================================

*The judgement is independent.*  What holds or does not is worked out from who holds which private keys, and from what
honest people have done: no invariant asks :mod:`slixmpp_mls.policy` whether something was allowed.

A short run is part of the test suite.  ``python -m tests.adversary --minutes 15`` is a long one, and prints figures.
"""
