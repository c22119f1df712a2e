"""What programs with a screen share, and the plugin for poezio.

:mod:`.notices` puts events into words, :mod:`.commands` has the commands that people type in a conversation.  The
command ``chat`` and :mod:`.poezio` use both.
"""
