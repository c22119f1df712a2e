"""Files in encrypted rooms: sent in one call, on each server as it comes."""

from __future__ import annotations

import io
import os
from hashlib import sha256
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from slixmpp import JID

from slixmpp_mls.devserver import DevServer
from slixmpp_mls.errors import BlobTooLarge, TransferFailed, UsageError
from slixmpp_mls.stanza.file_sharing import EncryptedSource, FileMetadata, FileSharing
from slixmpp_mls.stanza.xml import to_stdlib

from .people import Cast


async def test_a_file_and_a_picture(server: DevServer, cast: Cast, tmp_path: Path) -> None:
    _, (alice, bob) = await cast.meet(server, "alice", "bob")
    data = os.urandom(3_000_000)
    source = tmp_path / "heath.bin"
    source.write_bytes(data)
    sent = await alice.room().send_file(source, caption=cast.secret("The heath, at dusk"))
    await sent.confirmed
    message = await bob.next("mls_message")
    (file,) = message.files
    assert message.body == file.caption == "The heath, at dusk"
    assert (file.name, file.size, file.media_type) == ("heath.bin", len(data), "application/octet-stream")
    assert file.hashes == {"sha-256": sha256(data).digest()}
    assert (file.thumbnail, file.sharing.disposition) == (None, "attachment")
    folder = tmp_path / "bob"
    folder.mkdir()
    saved = await file.save(folder)
    assert saved == folder / "heath.bin"
    assert saved.read_bytes() == data
    with pytest.raises(UsageError, match="exists"):
        await file.save(folder)
    with pytest.raises(BlobTooLarge):
        await file.read(1000)
    assert os.listdir(folder) == ["heath.bin"]
    for person, sending in ((alice, True), (bob, False)):
        progress = person.got("mls_file_progress")
        assert progress[-1].done == progress[-1].total
        assert {(each.room, each.name, each.sending) for each in progress} == {(message.room.jid, "heath.bin", sending)}

    picture = io.BytesIO()
    Image.new("RGB", (64, 32), (10, 200, 10)).save(picture, "PNG")
    await alice.room().send_file(picture.getvalue(), name="../witch\u202egnp.png")
    message = await bob.next("mls_message", after=1)
    (file,) = message.files
    assert message.body == ""
    assert (file.name, file.media_type, file.caption) == ("witchgnp.png", "image/png", None)
    assert (file.sharing.file.width, file.sharing.file.height, file.sharing.disposition) == (64, 32, "inline")
    assert file.thumbnail is not None
    assert await file.read() == picture.getvalue()


async def test_after_a_restart_it_is_still_there(prosody: DevServer, cast: Cast) -> None:
    """The key is in the message, which comes again; the file lies on the server."""
    room, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    await bob.log_out()
    await (await alice.room().send_file(b"Fair is foul", name="a.txt")).confirmed
    await bob.connect()
    await bob.joined(room)
    message = await bob.next("mls_message")
    assert await message.files[0].read() == b"Fair is foul"


async def test_what_cannot_be_sent_leaves_nothing_in_the_room(prosody: DevServer, cast: Cast, tmp_path: Path) -> None:
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    room = alice.room()
    with pytest.raises(UsageError, match="no file"):
        await room.send_file(tmp_path / "none")
    with pytest.raises(UsageError, match="description"):
        await room.send_file(b"x", caption="x" * 5000)
    with pytest.raises(UsageError, match="type"):
        await room.send_file(b"x", media_type="text")
    with pytest.raises(UsageError, match="not as int"):
        await room.send_file(5)  # type: ignore[arg-type]
    sparse = tmp_path / "sparse"
    sparse.touch()
    os.truncate(sparse, 100 << 20)
    with pytest.raises(BlobTooLarge):
        await room.send_file(sparse)
    await alice.say("after it")
    await bob.hears("after it")
    assert bob.bodies == ["after it"]


async def test_a_bad_file_beside_a_good_one(prosody: DevServer, cast: Cast) -> None:
    """XEP-0448 requires size and hash; the message comes all the same, and says so."""
    _, (alice, bob) = await cast.meet(prosody, "alice", "bob")
    source = EncryptedSource(bytes(32), bytes(12), ("https://127.0.0.1:9/x",))
    good = to_stdlib(FileSharing(FileMetadata(5, {"sha-256": bytes(32)}), (source,)).to_lxml())
    bad = to_stdlib(FileSharing(FileMetadata(6, {"sha-256": bytes(32)}), (source,)).to_lxml())
    size = bad.find("*/{urn:xmpp:file:metadata:0}size")
    assert size is not None
    size.text = "many"
    message = alice.client.make_message(mto=JID(alice.room().jid), mtype="groupchat")
    message["body"] = cast.secret("look at these")
    message.xml.extend([bad, good, ElementTree.Element("{urn:xmpp:sfs:0}file-sharing")])
    await alice.room().send(message)
    got = await bob.next("mls_message")
    assert [file.size for file in got.files] == [5]
    assert got.warnings == ("file",)
    with pytest.raises(TransferFailed):
        await got.files[0].read()
