"""The targets with everything that they run instrumented for coverage, which takes longer than a short run."""

from __future__ import annotations

import contextlib
import io

import atheris  # type: ignore[import-untyped, unused-ignore]

with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["slixmpp_mls"]):
    from .targets import TARGETS
from slixmpp_mls.mls.xml_form import structures

for cls in structures().values():  # generated functions, which no import hook sees
    atheris.instrument_func(cls.codec.read)
    atheris.instrument_func(cls.codec.write)

__all__ = ["TARGETS"]
