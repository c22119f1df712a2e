"""One target under libFuzzer: ``python -m tests.fuzz.worker TARGET CORPUS [libFuzzer's options]``."""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped, unused-ignore]


def main() -> None:
    with atheris.instrument_imports(include=["slixmpp_mls"]):
        from . import targets
    from slixmpp_mls.mls.xml_form import structures

    for cls in structures().values():  # generated functions, which no import hook sees
        atheris.instrument_func(cls.codec.read)
        atheris.instrument_func(cls.codec.write)
    target = targets.TARGETS[sys.argv[1]]

    def read(data: bytes) -> None:
        target(data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
