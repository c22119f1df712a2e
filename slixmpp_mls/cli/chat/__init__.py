"""``slixmpp-mls chat``: the command, what it knows (:mod:`.model`), and two ways to show it.

:mod:`.window` fills a terminal (with Textual, the extra ``chat``); :mod:`.plain` reads and writes lines, for pipes and
for terminals that can do no more.
"""
