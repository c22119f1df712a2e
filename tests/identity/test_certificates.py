"""Certificates that several threads read."""

from __future__ import annotations

import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509

from slixmpp_mls.errors import InvalidError
from slixmpp_mls.identity.certificates import load_certificate


def test_all_threads_refuse_what_causes_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large tree is verified in a thread: what it refuses, and what we refuse meanwhile, must not depend on that."""

    def load(data: bytes) -> x509.Certificate:
        time.sleep(0.0002)
        warnings.warn("a later version will refuse it", UserWarning, stacklevel=2)
        raise AssertionError("it was read")

    monkeypatch.setattr(x509, "load_der_x509_certificate", load)
    before = list(warnings.filters)

    def refuses(number: int) -> bool:
        with pytest.raises(InvalidError, match="UserWarning"):
            load_certificate(b"")
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(refuses, range(400)))
    assert warnings.filters == before
