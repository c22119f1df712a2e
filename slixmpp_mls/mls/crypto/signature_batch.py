"""Many signatures, each verified once.

Verifying signatures is most of the work of joining a group or of taking in new members.  Two things
make it bearable: what has been verified before is remembered (a leaf seen in a KeyPackage is seen again
in the Add, and perhaps in a tree), and the rest goes to threads, as the libraries release the
interpreter's lock meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from ...errors import InvalidError
from ..varint import encode_varint
from .cipher_suite import CipherSuite

__all__ = ["SignedContent", "verify_all"]

_CHUNK = 32  # so many signatures are worth the cost of handing them to a thread


@dataclass(frozen=True, slots=True)
class SignedContent:
    """One signature to verify.

    :ivar what: names it in the error
    """

    what: str
    public: bytes
    label: str
    content: bytes
    signature: bytes


def verify_all(
    suite: CipherSuite,
    signed: Iterable[SignedContent],
    *,
    remembered: MutableSet[bytes] | None = None,
    threads: int = 2,
) -> None:
    """Verify signatures (RFC 9420 5.1.2).

    :param signed: may be a generator; it runs while the threads verify
    :param remembered: digests of what was found valid before; those found valid now are added.
        The caller bounds its size: it may be emptied at any time.
    :param threads: how many to use; 1 verifies in the calling thread
    :raises InvalidError: one does not hold; nothing is added to `remembered` then
    """
    fresh: set[bytes] = set()
    unknown = _unknown(suite, signed, remembered, fresh)
    first = list(islice(unknown, _CHUNK))
    chunks = iter(lambda: list(islice(unknown, _CHUNK)), [])
    if threads == 1 or len(first) < _CHUNK:
        _verify(suite, first)
        for chunk in chunks:
            _verify(suite, chunk)
    else:
        with ThreadPoolExecutor(threads) as pool:
            results: list[Future[None]] = []
            try:
                results.append(pool.submit(_verify, suite, first))
                for chunk in chunks:
                    results.append(pool.submit(_verify, suite, chunk))
                for result in results:
                    result.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    if remembered is not None:
        remembered |= fresh


def _unknown(
    suite: CipherSuite, signed: Iterable[SignedContent], remembered: MutableSet[bytes] | None, fresh: set[bytes]
) -> Iterator[SignedContent]:
    for item in signed:
        if remembered is not None:
            parts = (item.public, item.label.encode(), item.content, item.signature)
            digest = suite.hash(b"".join([piece for part in parts for piece in (encode_varint(len(part)), part)]))
            if digest in remembered or digest in fresh:
                continue
            fresh.add(digest)
        yield item


def _verify(suite: CipherSuite, chunk: list[SignedContent]) -> None:
    for item in chunk:
        try:
            suite.verify_with_label(item.public, item.label, item.content, item.signature)
        except InvalidError:
            raise InvalidError(f"bad signature: {item.what}", "RFC 9420 5.1.2") from None
