"""ts-mls as a peer: a Node process that speaks JSON lines (``ts_mls/peer.mjs``), and its Python side."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from .peers import (
    Add,
    Broken,
    Can,
    Client,
    Commit,
    Extension,
    ExternalPsk,
    Founded,
    Group,
    GroupState,
    Proposal,
    Received,
    Refused,
    ReInit,
    Remove,
    ResumptionPsk,
    SetExtensions,
    Unsupported,
    Update,
)

FOLDER = Path(__file__).parent / "ts_mls"
HOW = "the outside peer ts-mls needs Node 20.19 or newer: install nodejs and npm"
ANSWER_SECONDS = 240.0
INSTALL_SECONDS = 300.0


def missing() -> str | None:
    """Why ts-mls cannot run here, as a line that says what to install; None if it can."""
    return None if shutil.which("node") and shutil.which("npm") else HOW


def install(folder: Path = FOLDER) -> None:
    """Put the locked packages beside ``package.json``, unless they are there already.

    Tests that run side by side wait for the first that does it.
    """
    with (folder / "package.json").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _install(folder)


def _install(folder: Path) -> None:
    lock = (folder / "package-lock.json").read_bytes() + (folder / "package.json").read_bytes()
    wanted = hashlib.sha256(lock).hexdigest()
    stamp = folder / "node_modules" / ".installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    npm = shutil.which("npm")
    assert npm, HOW
    done = subprocess.run(
        [npm, "ci", "--ignore-scripts"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if done.returncode:
        raise Broken(f"npm ci failed:\n{done.stderr}")
    stamp.write_text(wanted)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)


def _must(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _extensions(extensions: Sequence[Extension]) -> list[dict[str, Any]]:
    return [{"type": extension.type, "data": _text(extension.data)} for extension in extensions]


def _reinit(proposal: ReInit) -> dict[str, Any]:
    extensions = _extensions(proposal.extensions)
    return {"group_id": _text(proposal.group_id), "suite": proposal.suite, "extensions": extensions}


class TsMlsPeer:
    """ts-mls 1.6.4 with the corrections of ``ts_mls/repairs.mjs``, in one Node process for all its clients.

    Close it, or use it as a context manager; the process is killed if it does not end by itself.
    """

    name: ClassVar[str] = "ts-mls"
    suites: ClassVar[frozenset[int]] = frozenset({1, 2, 3, 4, 5, 6, 7, 0xF001, 0xF002, 0xF009})
    # The library adds a path only where one is required. All else that a peer may be able to do, it can.
    can: ClassVar[frozenset[Can]] = frozenset(Can) - {Can.FORCE_PATH}

    def __init__(self) -> None:
        node = shutil.which("node")
        assert node, HOW
        self._process = subprocess.Popen(
            [node, "--import", "./repairs.mjs", "peer.mjs"],
            cwd=FOLDER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._replies: queue.Queue[str] = queue.Queue()
        self._complaints: list[str] = []
        self._next = 0
        self._readers = [
            threading.Thread(target=self._read_replies, daemon=True),
            threading.Thread(target=self._read_complaints, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_replies(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._replies.put(line)
        self._replies.put("")  # the process has ended

    def _read_complaints(self) -> None:
        assert self._process.stderr
        self._complaints.extend(self._process.stderr)

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Run one operation of ``peer.mjs``.

        :raises Refused: the library, or the program before it, said no.
        :raises Broken: the process died, or did not answer within :data:`ANSWER_SECONDS`.
        """
        self._next += 1
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"id": self._next, "op": op, **fields}) + "\n")
            self._process.stdin.flush()
            line = self._replies.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            self._process.kill()
            raise Broken(f"ts-mls: no answer to {op} in {ANSWER_SECONDS} s") from None
        except OSError as error:
            raise Broken(f"ts-mls is gone: {''.join(self._complaints)}") from error
        if not line:
            self._readers[1].join(timeout=5)
            raise Broken(f"ts-mls ended during {op}: {''.join(self._complaints)}")
        reply = json.loads(line)
        if reply.get("id") != self._next:
            raise Broken(f"ts-mls answered another request than {op}: {line[:200]}")
        if "error" in reply:
            raise Refused(f"ts-mls: {reply['error']}")
        ok: dict[str, Any] = reply["ok"]
        return ok

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join(timeout=5)
        for stream in (self._process.stdout, self._process.stderr):
            if stream:
                stream.close()

    def __enter__(self) -> TsMlsPeer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def client(
        self, identity: bytes, suite: int, *, tree_in_welcome: bool = True, extensions: Sequence[int] = ()
    ) -> TsMlsClient:
        made = self.ask("client", suite=suite, identity=_text(identity), extensions=list(extensions))
        return TsMlsClient(self, made["client"], identity, suite, tree_in_welcome)


class TsMlsClient:
    """A client of ts-mls."""

    def __init__(self, peer: TsMlsPeer, number: int, identity: bytes, suite: int, tree_in_welcome: bool) -> None:
        self.peer = peer
        self.identity = identity
        self.suite = suite
        self.number = number
        self.tree_in_welcome = tree_in_welcome

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        return self.peer.ask(op, client=self.number, **fields)

    def group(self, reply: dict[str, Any]) -> TsMlsGroup:
        return TsMlsGroup(self, reply["group"])

    def key_package(self, *, lifetime: tuple[int, int] | None = None) -> bytes:
        not_before, not_after = lifetime or (None, None)
        return _must(self.ask("key_package", not_before=not_before, not_after=not_after)["message"])

    def create_group(self, group_id: bytes, extensions: Sequence[Extension] = ()) -> TsMlsGroup:
        return self.group(self.ask("create_group", group_id=_text(group_id), extensions=_extensions(extensions)))

    def join(self, welcome: bytes, ratchet_tree: bytes | None = None, *, resumed: Group | None = None) -> TsMlsGroup:
        fields: dict[str, Any] = {"welcome": _text(welcome)}
        if ratchet_tree is not None:
            fields["ratchet_tree"] = _text(ratchet_tree)
        if resumed is not None:
            assert isinstance(resumed, TsMlsGroup)
            fields["resumed"] = resumed.number
        return self.group(self.ask("join", **fields))

    def external_join(
        self, group_info: bytes, ratchet_tree: bytes | None = None, *, resync: bool = False
    ) -> tuple[TsMlsGroup, bytes]:
        tree = None if ratchet_tree is None else _text(ratchet_tree)
        made = self.ask("external_join", group_info=_text(group_info), ratchet_tree=tree, resync=resync)
        return self.group(made), _must(made["message"])

    def propose_join(self, group_info: bytes) -> bytes:
        return _must(self.ask("propose_join", group_info=_text(group_info))["message"])

    def external_sender(self) -> bytes:
        return _must(self.ask("external_sender")["data"])

    def propose_external(self, group_info: bytes, sender_index: int, proposal: Add | Remove) -> bytes:
        fields = _proposal(proposal)
        made = self.ask("propose_external", group_info=_text(group_info), sender_index=sender_index, **fields)
        return _must(made["message"])

    def register_psk(self, psk_id: bytes, secret: bytes) -> None:
        self.ask("psk", psk_id=_text(psk_id), secret=_text(secret))


def _proposal(proposal: Proposal) -> dict[str, Any]:
    match proposal:
        case Add(key_package):
            return {"kind": "add", "key_package": _text(key_package)}
        case Remove(index):
            return {"kind": "remove", "removed": index}
        case Update():
            return {"kind": "update"}
        case ExternalPsk(psk_id):
            return {"kind": "psk", "psk_id": _text(psk_id)}
        case SetExtensions(extensions):
            return {"kind": "extensions", "extensions": _extensions(extensions)}
        case ReInit():
            return {"kind": "reinit", "reinit": _reinit(proposal)}
        case ResumptionPsk():
            raise Unsupported("ts-mls: the program proposes resumption PSKs by value only")


class TsMlsGroup:
    """A group of ts-mls."""

    def __init__(self, client: TsMlsClient, number: int) -> None:
        self._client = client
        self.number = number

    @property
    def client(self) -> TsMlsClient:
        return self._client

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        return self._client.peer.ask(op, group=self.number, **fields)

    def commit(
        self,
        proposals: Sequence[Proposal] = (),
        *,
        private: bool | None = None,
        force_path: bool = False,
        aad: bytes = b"",
    ) -> Commit:
        if force_path:
            raise Unsupported("ts-mls: a path where none is required")
        fields: dict[str, Any] = {"adds": [], "removes": [], "psks": [], "resumption_epochs": []}
        for proposal in proposals:
            match proposal:
                case Add(key_package):
                    fields["adds"].append(_text(key_package))
                case Remove(index):
                    fields["removes"].append(index)
                case ExternalPsk(psk_id):
                    fields["psks"].append(_text(psk_id))
                case ResumptionPsk(epoch):
                    fields["resumption_epochs"].append(epoch)
                case SetExtensions(extensions):
                    fields["extensions"] = _extensions(extensions)
                case ReInit():
                    fields["reinit"] = _reinit(proposal)
                case Update():
                    raise Unsupported("RFC 9420 12.2: an Update of the committer's own is not committed")
        fields |= {"private": private, "aad": _text(aad), "tree_in_welcome": self._client.tree_in_welcome}
        made = self.ask("commit", **fields)
        welcome, tree = _bytes(made.get("welcome")), _bytes(made["ratchet_tree"])
        return Commit(_must(made["message"]), welcome, tree, _must(made["group_info"]))

    def propose(self, proposal: Proposal, *, private: bool | None = None, aad: bytes = b"") -> bytes:
        return _must(self.ask("propose", private=private, aad=_text(aad), **_proposal(proposal))["message"])

    def process(self, message: bytes) -> Received:
        found = self.ask("process", message=_text(message))
        kind, phase = found["kind"], found["phase"]
        data, aad = _bytes(found.get("data")), _bytes(found.get("aad"))
        return Received(kind, found.get("sender"), data, aad, removed=kind == "commit" and phase == "removed")

    def encrypt(self, data: bytes, aad: bytes = b"") -> bytes:
        return _must(self.ask("encrypt", data=_text(data), aad=_text(aad))["message"])

    def group_info(self, *, tree: bool = True) -> bytes:
        return _must(self.ask("group_info", tree=tree)["message"])

    def export_secret(self, label: str, context: bytes, length: int) -> bytes:
        return _must(self.ask("export_secret", label=label, context=_text(context), length=length)["data"])

    def state(self) -> GroupState:
        found = self.ask("state")
        return GroupState(
            group_id=_must(found["group_id"]),
            epoch=found["epoch"],
            tree_hash=_must(found["tree_hash"]),
            confirmed_transcript_hash=_must(found["confirmed_transcript_hash"]),
            extensions=tuple(Extension(item["type"], _must(item["data"])) for item in found["extensions"]),
            ratchet_tree=_must(found["ratchet_tree"]),
            own_index=found["own_index"],
            epoch_authenticator=_must(found["epoch_authenticator"]),
            phase=found["phase"],
        )

    def holds_authenticator(self, value: bytes) -> bool:
        return value == self.state().epoch_authenticator

    def reload(self) -> None:
        self.ask("reload")

    def reinit(self, client: Client, key_packages: Sequence[bytes]) -> Founded:
        assert isinstance(client, TsMlsClient)
        made = self.ask("reinit", client=client.number, key_packages=[_text(package) for package in key_packages])
        return Founded(client.group(made), _must(made["welcome"]), _must(made["ratchet_tree"]))

    def branch(self, group_id: bytes, key_packages: Sequence[bytes]) -> Founded:
        packages = [_text(package) for package in key_packages]
        made = self.ask("branch", group_id=_text(group_id), key_packages=packages)
        return Founded(self._client.group(made), _must(made["welcome"]), _must(made["ratchet_tree"]))
