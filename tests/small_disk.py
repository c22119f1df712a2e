"""Folders with little space, for processes that a test starts: without a mount, which not every system allows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

__all__ = ["small_disk"]


def small_disk(folder: Path, octets: int) -> dict[str, str]:
    """The environment of a process in which the files in a folder hold so many octets; see ``small_disk.c``.

    :param folder: it exists, and has no folders in it
    """
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        reason = "a disk of limited size needs Linux and a C compiler"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    library = folder.with_name(f"{folder.name}.so")
    source = Path(__file__).with_suffix(".c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "SMALL_DISK": str(folder.resolve()), "SMALL_DISK_OCTETS": str(octets)}
