"""The events of the plugin, and what a program can rely on.

``xmpp.add_event_handler(name, handler)`` has `handler` called with one object, which the table names:

============================  ===================================================================
``mls_ready``                 our keys are published and our rooms are being read; the plugin
``mls_failed``                starting has failed, or work in the background has; the exception
``mls_message``               a message; :class:`.rooms.encrypted_message.EncryptedMessage`
``mls_reaction``              reactions to a message; ``EncryptedMessage`` with `reacts_to` and `reactions`
``mls_correction``            another text for a message; ``EncryptedMessage`` with `replaces` and the new `body`
``mls_retraction``            a message is to be forgotten; ``EncryptedMessage`` with `retracts`
``mls_typing``                somebody is typing, or has stopped; ``Typing``
``mls_marker``                somebody has read a message and all before it; ``Marker``
``mls_sent``                  a message of ours is in the room's order; ``MessageSent``
``mls_file_progress``         how far a file is that is sent or fetched; ``FileProgress``
``mls_joined``                we are in a group; ``Joined``
``mls_joined_partially``      we are in a large group, and do not know all members yet; ``JoinedPartially``
``mls_whole_tree``            how far we are with the members of a large group; ``WholeTree``
``mls_group_changed``         a Commit took effect; ``GroupChanged``
``mls_conversation_merged``   there are several conversations with one account; ``ConversationMerged``
``mls_commit_lost``           a Commit of ours came second (it is made again) or was refused; ``CommitLost``
``mls_removed``               we have been removed from a group; ``RemovedFromGroup``
``mls_rejected``              a stanza was refused; ``Rejected`` with the reason
``mls_unreadable``            there is no key for a message; ``Unreadable`` says why
``mls_doubted``               the Authentication Service does not vouch for a member; ``MemberDoubted``
``mls_certificate_expires``   a certificate of ours expires soon; ``CertificateExpires``
``mls_trust_changed``         the level of trust in a key has changed; ``TrustChanged``
``mls_new_key``               an account that we know has another device; ``NewDevice``
``mls_key_changed``           a device has another key than the one we know, and is denied; ``KeyChanged``
``mls_affiliations_differ``   the members of the room are not those of the group; ``AffiliationsDiffer``
``mls_doubted_message``       a message of a member that the service denies; ``EncryptedMessage``
``mls_left_behind``           a member seems to be in a later epoch than we are; ``LeftBehind``
``mls_unsure``                we may not be where the group is, or are sure again; nothing is lost; ``Unsure``
``mls_group_lost``            we cannot follow a group any more; ``GroupLost``
``mls_group_outdated``        a group in our store is of version 0.1 of the protocol; ``GroupOutdated``
``mls_group_closed``          a ReInit has ended a group, another group will follow; ``GroupClosed``
``mls_group_continued``       the group that follows is there; ``GroupContinued``
``mls_continuation_delayed``  the group that follows cannot be made yet; ``ContinuationDelayed``
``mls_downgrade_suspected``   a server seems to hide what a device supports; ``Suspicion``
``mls_better_suite``          all members support a better cipher suite than the group has; ``BetterSuite``
``mls_rejoining``             we try to come (back) into a group; ``Rejoining``
``mls_join_requested``        somebody asks to be added, and we do not add them by ourselves; ``JoinRequested``
``mls_invited``               somebody invites us; ``Invitation``
``mls_other_group``           an invitation names another group in a room than ours; ``OtherGroup``
``mls_catching_up``           progress in a room's archive; ``CatchingUp``
``mls_entered``               we are in a room; ``Entered``
``mls_interrupted``           we are out of a room for now; ``Interrupted``
``mls_room_lost``             a room does not let us in (any more); ``RoomLost``
``mls_outage``                why a room cannot be entered or read, each other reason, and the end; ``Outage``
``mls_room_unsuitable``       a room's owner has changed it so that it does not suit its group; ``RoomUnsuitable``
``mls_room_event``            anything else that a room reports
``mls_bounced``               the room refused a stanza; ``Bounced``
``mls_affiliation_changed``   an account has another affiliation in the room; ``AffiliationChanged``
``mls_new_device``            our account lists a device that we have not seen before; ``NewOwnDevice``
``mls_new_store``             our store is new, and our account lists other devices with our label; ``NewStore``
``mls_device_conflict``       our id was listed with other keys, or a retired device again; ``DeviceConflict``
``mls_keys_renewed``          our keys in a group were renewed by maintenance; ``KeysRenewed``
``mls_silent``                members have not renewed their keys for too long; ``SilentMembers``
``mls_key_packages``          our KeyPackages in the directory were replenished or replaced; ``KeyPackagesChanged``
``mls_clock_jumped``          the machine's date has been set, or the machine has slept; ``ClockJumped``
``mls_clock_wrong``           our clock and our server's differ by minutes; ``ClockWrong``
``mls_key_rotated``           a change of our signature key is complete; ``KeyRotated``
``mls_retired``               our account has retired this device, which has stopped; ``RetiredDevice``
``mls_store_failed``          the disk refused a step, which is tried again; ``StoreError``
============================  ===================================================================

A program that is killed at any point continues from there when it starts again with the same store.

*Messages to you*.  Each message comes at least once, in the room's order.  It stays in the store until the handlers of
``mls_message`` (or of its own event) are done with it: plain handlers have returned, coroutines have ended.  A
raising handler counts as done, a cancelled one does not.  At the next start, the messages that are left in the store
are handed out again, before anything new and marked ``again``: your program may have seen them.  `archive_id` tells
for sure, because it is the same every time.  Coroutine handlers *begin* in the room's order; slixmpp lets them run at
the same time.  Other events are not repeated: ask for the state instead (:attr:`EncryptedRoom.members`,
:attr:`EncryptedRoom.is_member` ...).

*Messages from you*.  A message is accepted when :meth:`EncryptedRoom.send` returns.  Then it reaches the room once,
even if the program never learns of it (``mls_sent``, `confirmed`).  If the program was killed before that, the message
may have been accepted or not: send it again as a Message with the same id, and everybody sees it once.

*Changes of the group*.  A Commit of `add`, `remove`, `update` or `set_policy` takes effect if it comes first, with the
invitations and the affiliations in the room that belong to it.  If it does not come first, nobody makes it again after
a restart: ask (:attr:`EncryptedRoom.accounts`) and call again.  An interrupted `add` may have let people into the room
that are not in the group (``mls_affiliations_differ``).  `leave` continues by itself; `create` continues when it is
called again.
"""
