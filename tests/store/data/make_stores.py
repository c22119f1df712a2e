"""Make the store files beside this script, with the code that is importable: ``python make_stores.py FOLDER``.

They were made with the code of version 0.1, when a room's group was one object.  Tests open them with the code of
today (``test_earlier_stores.py``).  Keep them: a file that this version makes proves nothing about the one before.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

from slixmpp_mls.client import Doubt, KeyPackageSettings
from slixmpp_mls.store import SQLiteStore
from slixmpp_mls.testing import NOW, World

ALICE, BOB, CAROL = "alice@a.example", "bob@b.example", "carol@c.example"
DAVE, MALLORY = "dave@d.example", "mallory@m.example"


def main(folder: Path) -> None:
    world = World(settings=KeyPackageSettings(count=1))
    names = {account: account.partition("@")[0] for account in (ALICE, BOB, CAROL, DAVE)}
    stores = {account: SQLiteStore(folder / f"{name}.db", account) for account, name in names.items()}
    alice, bob, carol = (world.person(account, stores[account]) for account in (ALICE, BOB, CAROL))
    alice.group.lifecycle.create(1, world.open_policy(ALICE, BOB, CAROL), NOW)
    alice.commit(*alice.adding(BOB), *alice.adding(CAROL))
    world.settle()
    world.person(DAVE, stores[DAVE])
    bob.send(b"heard")
    bob.commit()
    world.settle()
    # A stranger asks to be let in: kept, and not for a Commit of ours.
    stranger = world.person(MALLORY)
    bob.commit()
    world.settle()
    stranger.ask()
    world.settle()
    # Carol loses the group, and asks to be added; it has not arrived.
    carol.group.lifecycle.give_up("lost")
    bob.send(b"missed")
    world.room.deliver_all()
    carol.read()
    carol.ask()
    bob.read()
    world.room.in_flight.clear()
    # Alice has read what the application has not taken.
    (incoming,) = world.room.read(ALICE, alice.group.cursor)
    alice.group.applying.accept(alice.group.processing.examine(incoming, NOW), NOW)
    who = carol.device.identity
    alice.group.members.reconsider([who], [Doubt(who, False, "unreachable", "no answer", NOW)])
    # What she has said has not come back.
    alice.group.sending.compose(b"on its way", origin_id="first")
    (removal,) = alice.removing(CAROL)
    alice.group.sending.propose(removal, NOW)
    alice.group.sending.commit(alice.adding(DAVE), NOW)
    alice.group.sending.compose(b"not encrypted yet", later=True, origin_id="later")
    alice.group.lifecycle.want_to_leave()
    for account, store in stores.items():
        store.close()
        file = folder / f"{names[account]}.db"
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
