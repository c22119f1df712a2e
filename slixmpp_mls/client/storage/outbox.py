"""Messages of ours that the room has not reflected yet, in the order in which they were made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256

from .records import OutboxRecord, UploadRecord

__all__ = ["NUMBER", "Outbox"]

NUMBER = 8
"""Octets of a number."""

_DIGEST = 32


class Outbox:
    """The contents of the store's outbox space, indexed by number, by the hash of the message and by origin id.

    :param uploads: of those whose message is not sent in a stanza
    """

    def __init__(
        self,
        records: Iterable[tuple[bytes, OutboxRecord]] = (),
        uploads: Iterable[tuple[bytes, UploadRecord]] = (),
    ) -> None:
        self._records: dict[bytes, OutboxRecord] = {}
        self._by_digest: dict[bytes, bytes] = {}
        self._by_origin_id: dict[bytes, bytes] = {}
        self._uploads = dict(uploads)
        for number, record in records:
            self.put(number, record)

    def copy(self) -> Outbox:
        """An independent copy."""
        same = Outbox()
        same._records = self._records.copy()
        same._by_digest = self._by_digest.copy()
        same._by_origin_id = self._by_origin_id.copy()
        same._uploads = self._uploads.copy()
        return same

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[tuple[bytes, OutboxRecord]]:
        """All entries, oldest first; safe against changes during the iteration."""
        return iter(list(self._records.items()))

    def __getitem__(self, number: bytes) -> OutboxRecord:
        return self._records[number]

    def next_number(self) -> bytes:
        """The key for the next entry."""
        last = next(reversed(self._records), bytes(NUMBER))
        return (int.from_bytes(last, "big") + 1).to_bytes(NUMBER, "big")

    def put(self, number: bytes, record: OutboxRecord) -> None:
        """Insert or replace an entry."""
        self._forget_names(number)
        late = number not in self._records and number < next(reversed(self._records), b"")
        self._records[number] = record
        if late:  # a removed entry is restored to its place in the order, as in the store
            self._records = dict(sorted(self._records.items()))
        for digest in _digests(record):
            self._by_digest[digest] = number
        self._by_origin_id[record.origin_id] = number

    def remove(self, number: bytes) -> None:
        """Remove an entry if it exists.  A change that the store has committed must not fail in memory."""
        self._forget_names(number)
        self._records.pop(number, None)
        self._uploads.pop(number, None)

    def put_upload(self, number: bytes, upload: UploadRecord) -> None:
        """Say of an entry that its message is not sent in a stanza, and where it is."""
        self._uploads[number] = upload

    def upload(self, number: bytes) -> UploadRecord | None:
        """Where an entry's message is; None if it is in the stanza."""
        return self._uploads.get(number)

    def of_location(self, location: bytes) -> bytes | None:
        """The number of the entry whose Commit is at this location; None if there is none."""
        return next((number for number, upload in self._uploads.items() if upload.location == location), None)

    def _forget_names(self, number: bytes) -> None:
        record = self._records.get(number)
        if record is None:
            return
        for digest in _digests(record):
            if self._by_digest.get(digest) == number:
                del self._by_digest[digest]
        if self._by_origin_id.get(record.origin_id) == number:
            del self._by_origin_id[record.origin_id]

    def get(self, number: bytes) -> OutboxRecord | None:
        return self._records.get(number)

    def of_message(self, message: bytes) -> bytes | None:
        """The number of the entry whose present or former encryption has these octets; None if there is none."""
        return self._by_digest.get(sha256(message).digest())

    def of_origin_id(self, origin_id: str) -> bytes | None:
        """The number of the entry with this origin id; None if there is none."""
        return self._by_origin_id.get(origin_id.encode())


def _digests(record: OutboxRecord) -> Iterator[bytes]:
    if record.digest:
        yield record.digest
    for start in range(0, len(record.earlier), _DIGEST):
        yield record.earlier[start : start + _DIGEST]
