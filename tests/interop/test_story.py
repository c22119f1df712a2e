"""The story of the specification's examples, followed by an implementation that is not ours.

ts-mls gets what a reader of the document has: the stanzas, and the private keys of one device in ``xep/story.json``.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from slixmpp_mls.stanza import Ephemeral, GroupInfo, parse

from ..test_xep import ROOM_STANZAS, STORY, example, identity_of, ours
from . import ts_mls_peer
from .peers import Peer

FOLDER, JS_CLIENT = (Path(__file__).parent / name for name in ("ts_mls", "js_client"))

pytestmark = pytest.mark.interop


def told(device: dict[str, Any]) -> list[dict[str, Any]]:
    """What ts-mls makes of each stanza."""
    stanzas = [
        [
            {
                "kind": element.NAME,
                "epoch": element.epoch,
                "data": base64.b64encode(element.data).decode(),
                "keyEpoch": element.key_epoch if isinstance(element, GroupInfo) else None,
            }
            for element in stanza.incoming.payloads
        ]
        for stanza in ROOM_STANZAS
    ]
    (typing,) = ours(example("wiccarocks is typing"))
    signal = parse(typing)
    assert isinstance(signal, Ephemeral)
    shown = {"epoch": signal.epoch, "data": base64.b64encode(signal.data).decode()}
    ts_mls_peer.install(JS_CLIENT)
    node = shutil.which("node")
    assert node is not None
    done = subprocess.run(
        [node, "--import", "./repairs.mjs", "story.mjs"],
        cwd=FOLDER,
        input=json.dumps({"device": device, "stanzas": stanzas, "ephemeral": [shown]}),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    replies = json.loads(done.stdout)
    assert isinstance(replies, list)
    return replies


def test_ts_mls_follows_the_examples_of_the_specification(ts_mls: Peer) -> None:
    identity = identity_of("crone1")
    (device,) = (one for one in STORY["private_keys"] if one["identity"] == identity)
    replies = told(device)
    assert len(replies) == len(ROOM_STANZAS)
    for stanza, reply in zip(ROOM_STANZAS, replies, strict=True):
        assert reply.get("ignored", False) == (stanza.name == "loser"), stanza.name
        if "epoch_after" in stanza.facts:
            assert reply["epoch"] == stanza.facts["epoch_after"], stanza.name
            assert reply["authenticator"] == stanza.facts["epoch_authenticator_after"], stanza.name
        infos = [element for element in stanza.incoming.payloads if isinstance(element, GroupInfo)]
        assert reply.get("keyEpoch") == (infos[0].key_epoch if infos else None), stanza.name
        if stanza.facts["kind"] == "application":
            assert base64.b64decode(reply["plaintext"]).decode() == stanza.facts["envelope"], stanza.name
    # "Encrypted GroupInfos" and "Ephemeral Content": another implementation has read what the document shows.
    assert any("keyEpoch" in reply for reply in replies)
    said = " ".join("".join(example("What wiccarocks encrypts while typing").itertext()).split())
    read = {envelope for reply in replies for envelope in reply["envelopes"]}
    assert len(read) == 1
    (envelope,) = read
    assert "composing" in envelope
    assert " ".join("".join(etree.fromstring(envelope).itertext()).split()) == said
