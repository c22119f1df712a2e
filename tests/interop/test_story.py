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

from ..test_xep import ROOM_STANZAS, STORY, identity_of
from .peers import Peer

FOLDER = Path(__file__).parent / "ts_mls"

pytestmark = pytest.mark.interop


def told(device: dict[str, Any]) -> list[dict[str, Any]]:
    """What ts-mls makes of each stanza."""
    stanzas = [
        [
            {"kind": element.NAME, "epoch": element.epoch, "data": base64.b64encode(element.data).decode()}
            for element in stanza.incoming.payloads
        ]
        for stanza in ROOM_STANZAS
    ]
    node = shutil.which("node")
    assert node is not None
    done = subprocess.run(
        [node, "--import", "./repairs.mjs", "story.mjs"],
        cwd=FOLDER,
        input=json.dumps({"device": device, "stanzas": stanzas}),
        capture_output=True,
        text=True,
        timeout=120,
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
        if stanza.facts["kind"] == "application":
            assert base64.b64decode(reply["plaintext"]).decode() == stanza.facts["envelope"], stanza.name
