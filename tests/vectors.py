"""Where the official MLS test vectors are found.

They are not copied into this repository.  ``MLS_TEST_VECTORS`` names a folder that holds the
JSON files of ``test-vectors/`` from the public repository mlswg/mls-implementations::

    git clone --depth 1 https://github.com/mlswg/mls-implementations
    export MLS_TEST_VECTORS="$PWD/mls-implementations/test-vectors"

Those of HPKE's post-quantum KEMs stand beside them in a folder `hpke-pq`: ``test-vectors.json`` of the public
repository hpkewg/hpke-pq (commit 74dafaa).

Without them the tests that need them are skipped, each with a line that says so; where ``CI``
is set they fail, because a skipped vector there looks like one that passed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

HOW = (
    "the official test vectors are missing: see tests/vectors.py; for most of them clone "
    "https://github.com/mlswg/mls-implementations and set MLS_TEST_VECTORS to its folder test-vectors"
)


def load(name: str) -> list[Any]:
    """The cases of one file, such as ``load("key-schedule")``.

    Works in a test and at a module's top level (for ``parametrize``).  Skips, or in CI fails,
    when the file is not there.
    """
    folder = os.environ.get("MLS_TEST_VECTORS", "")
    path = Path(folder, f"{name.removesuffix('.json')}.json")
    if not folder or not path.is_file():
        reason = f"{path.name}: {HOW}"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason, allow_module_level=True)
    cases = json.loads(path.read_bytes())
    assert isinstance(cases, list)
    assert cases, f"{path} holds no case"
    return cases
