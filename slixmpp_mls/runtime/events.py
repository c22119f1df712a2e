"""The events of the plugin, and what a program can rely on.

``xmpp.add_event_handler(name, handler)`` has `handler` called with what the table names:

============================  ===================================================================
``mls_ready``                 keys are published, rooms are being read; the plugin
``mls_failed``                starting failed, or a room's worker did; an exception
``mls_message``               a message; :class:`.rooms.content.EncryptedMessage`
``mls_sent``                  a message of ours is in the room's order; ``MessageSent``
``mls_joined``                we are in a group; ``Joined``
``mls_group_changed``         a Commit took effect; ``GroupChanged``
``mls_commit_lost``           a Commit of ours came second (it is made again) or was refused; ``CommitLost``
``mls_removed``               we are out of a group; ``RemovedFromGroup``
``mls_rejected``              a stanza was refused; ``Rejected`` with the reason
``mls_unreadable``            a message without a key for it; ``Unreadable`` says why
``mls_doubted``               the Authentication Service does not vouch for a member; ``MemberDoubted``
``mls_certificate_expires``   a certificate of ours ends soon; ``CertificateExpires``
``mls_trust_changed``         a key is verified, distrusted ... from now on; ``TrustChanged``
``mls_new_key``               an account that we know has another device; ``NewDevice``
``mls_key_changed``           a device has another key than the one we know, and is denied; ``KeyChanged``
``mls_affiliations_differ``   the room lets in others than the group has; ``AffiliationsDiffer``
``mls_doubted_message``       a message of a member whom it denies; ``EncryptedMessage``
``mls_left_behind``           a member seems to be in a later epoch than we are; ``LeftBehind``
``mls_group_lost``            we can not follow a group any more; ``GroupLost``
``mls_group_closed``          a ReInit has ended a group, another one will follow it; ``GroupClosed``
``mls_group_continued``       it is there; ``GroupContinued``
``mls_continuation_delayed``  it can not be made yet; ``ContinuationDelayed``
``mls_downgrade_suspected``   a server seems to hide what a device supports; ``Suspicion``
``mls_rejoining``             we try to come (back) into a group; ``Rejoining``
``mls_join_requested``        somebody asks to be added whom we do not add by ourselves; ``JoinRequested``
``mls_invited``               somebody invites us; ``Invitation``
``mls_catching_up``           progress in a room's archive; ``CatchingUp``
``mls_entered``               in a room; ``Entered``
``mls_interrupted``           out of a room for now; ``Interrupted``
``mls_room_lost``             out of a room for good; an exception
``mls_room_event``            anything else that a room reports
``mls_bounced``               the room refused a stanza; ``Bounced``
``mls_affiliation_changed``   ``AffiliationChanged``
``mls_new_device``            our account lists a device that we have not seen before; ``NewOwnDevice``
``mls_device_conflict``       our id was listed with other keys, or a retired device again; ``DeviceConflict``
``mls_keys_renewed``          our keys in a group were renewed by themselves; ``KeysRenewed``
``mls_silent``                members have not renewed their keys for too long; ``SilentMembers``
``mls_key_packages``          our KeyPackages in the directory were replenished or replaced; ``KeyPackagesChanged``
``mls_clock_jumped``          the machine's date has been set, or it has slept; ``ClockJumped``
``mls_key_rotated``           a change of our signature key is at its end; ``KeyRotated``
``mls_retired``               our account has retired this device, it has stopped; ``RetiredDevice``
``mls_store_failed``          the disk refused a step, it is tried again; ``StoreError``
============================  ===================================================================

A program that is killed at any point goes on where it was when it starts again with the same store.

*Messages to you*: each one comes at least once, in the room's order.  It stays in the store until the handlers
of ``mls_message`` (or ``mls_doubted_message``) are done with it: plain ones have returned, coroutines have ended; one
that raises has had its chance, one that is cancelled has not.  What lies there at the next start is handed out again,
before anything new, marked ``again``: perhaps you have seen it.  `archive_id` says for sure, it is the same every
time.  Coroutine handlers *begin* in the room's order; slixmpp lets them run at the same time.  Other events are not
repeated: what they tell can be asked for (:attr:`EncryptedRoom.members`, :attr:`EncryptedRoom.is_member` ...).

*Messages from you*: one is accepted when :meth:`EncryptedRoom.send` returns; then it reaches the room once, even
if the program never gets to hear of it (``mls_sent``, `confirmed`).  If the program was killed before that, it may
have been accepted or not: send it again as a Message with the same id, and everybody sees it once.

*Changes of the group*: what `add`, `remove`, `update` or `set_policy` has put on its way takes effect if it comes
first, with the invitations and the affiliations in the room that belong to it; if not, nobody makes it again after a
restart, so ask (:attr:`EncryptedRoom.accounts`) and call again.  An `add` that was stopped before may have let people
into the room who are not in the group (``mls_affiliations_differ``).  `leave` goes on by itself; `create` goes on when
it is called again.
"""
