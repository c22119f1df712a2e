"""The pages of the site that are made from the code, so that they cannot differ from it.

They are written to ``docs/reference/generated/`` when the site is built, and are not in the repository:

- ``command-line.md`` from the Typer application;
- ``events.rst`` from the table in :mod:`slixmpp_mls.runtime.events`, with the fields of each event's class;
- ``errors.rst`` from the classes in :mod:`slixmpp_mls.errors`;
- ``api.rst`` from what the package and its parts export;
- ``settings.rst`` from the table in :mod:`slixmpp_mls.runtime.settings`.

The specification is rendered by ``xep/render.py`` into ``docs/_build/extra/xep``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import slixmpp_mls
from slixmpp_mls import errors
from slixmpp_mls.runtime import events, settings

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
GENERATED = HERE / "reference" / "generated"
SPECIFICATION = HERE / "_build" / "extra" / "xep"

PARTS = {
    "slixmpp_mls.plugin": "The plugin",
    "slixmpp_mls": "The package",
    "slixmpp_mls.account.devices": "Our devices: `mls.devices`",
    "slixmpp_mls.account.trust": "Trust: `mls.trust`",
    "slixmpp_mls.policy": "Rights",
    "slixmpp_mls.authentication": "Authentication Services",
    "slixmpp_mls.identity": "Identities and certificates",
    "slixmpp_mls.store": "Stores",
    "slixmpp_mls.testing": "Fakes for tests",
}
"""The modules whose public names a program may use, in the order of the page."""


def everything() -> None:
    """Write all generated pages."""
    shutil.rmtree(GENERATED, ignore_errors=True)
    GENERATED.mkdir(parents=True)
    command_line()
    _write("events.rst", _events())
    _write("errors.rst", _errors())
    _write("api.rst", _api())
    _write("settings.rst", _settings())
    specification()


def specification() -> None:
    """Render the documents of the specification."""
    shutil.rmtree(SPECIFICATION, ignore_errors=True)
    subprocess.run(
        [sys.executable, ROOT / "xep" / "render.py", "--output", SPECIFICATION, "--site", "../specification.html"],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def command_line() -> None:
    """The commands, as Typer describes them."""
    made = subprocess.run(
        [sys.executable, "-m", "typer", "slixmpp_mls.cli", "utils", "docs", "--name", "slixmpp-mls"],
        check=True, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    text = made.stdout.replace("# `slixmpp-mls`\n", "# The command line\n", 1)
    text = re.sub(r"^(#+) `(.*)`$", r"\1 \2", text, flags=re.MULTILINE)
    (GENERATED / "command-line.md").write_text(text)


def _write(name: str, lines: list[str]) -> None:
    (GENERATED / name).write_text("\n".join(lines) + "\n")


def _title(text: str, line: str = "=") -> list[str]:
    return [text, line * max(len(text), 3), ""]


def _classes() -> dict[str, str]:
    """The full name of each class of the package, by its short name; the one with a docstring wins."""
    found: dict[str, str] = {}
    for module in pkgutil.walk_packages(slixmpp_mls.__path__, "slixmpp_mls."):
        if module.name.split(".")[1] in ("mls", "cli", "integrations", "testing"):
            continue
        if module.name in ("slixmpp_mls.stanza.aioxmpp", "slixmpp_mls.stanza.slixmpp"):  # XML, with the same names
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(value) and value.__module__ == module.name:
                found.setdefault(name, f"{module.name}.{name}")
    return found


def event_table() -> list[tuple[str, str, str]]:
    """Each event: its name, what it says, and the name of the class of its data ("" if there is none)."""
    rows = []
    for name, text in re.findall(r"^``(mls_\w+)``  +(.*)$", events.__doc__ or "", re.MULTILINE):
        said, _, data = text.partition(";")
        (data,) = re.findall(r"``(\w+)``|:class:`[.\w]*\.(\w+)`", data)[:1] or [("", "")]
        rows.append((name, said.strip(), data[0] or data[1]))
    return rows


def _events() -> list[str]:
    known = _classes()
    lines = [*_title("Events"), "``xmpp.add_event_handler(name, handler)`` calls `handler` with one object:", ""]
    lines += [".. list-table::", "   :header-rows: 1", "", "   * - event", "     - when", "     - data"]
    described: list[str] = []
    for name, said, data in event_table():
        lines += [f"   * - ``{name}``", f"     - {said[:1].upper()}{said[1:]}"]
        if data in known:
            lines.append(f"     - :class:`~{known[data]}`")
            if data not in described:
                described.append(data)
        else:
            lines.append(f"     - {f'``{data}``' if data else ''}")
    promises = (events.__doc__ or "").rpartition("===\n\n")[2]
    lines += ["", *_title("What a program can rely on", "-"), *promises.splitlines(), ""]
    lines += _title("The data of the events", "-")
    for data in described:
        if not issubclass(_resolve(known[data]), errors.MLSError) and data != "EncryptedMessage":
            lines += [f".. autoclass:: {known[data]}", "   :members:", ""]
    return lines


def _resolve(name: str) -> type:
    module, _, cls = name.rpartition(".")
    found = getattr(importlib.import_module(module), cls)
    assert inspect.isclass(found)
    return found


def error_tree() -> list[tuple[int, type[errors.MLSError]]]:
    """Each error class with its depth in the tree, parents first."""

    def below(cls: type[errors.MLSError], depth: int) -> list[tuple[int, type[errors.MLSError]]]:
        children = [child for child in cls.__subclasses__() if child.__module__ == errors.__name__]
        return [(depth, cls), *(row for child in children for row in below(child, depth + 1))]

    return below(errors.MLSError, 0)


def _errors() -> list[str]:
    lines = [*_title("Errors"), "All errors of the package, as one tree. :doc:`/troubleshooting` says what to do.", ""]
    for depth, cls in error_tree():
        said = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        lines += [f"{'  ' * depth}- :class:`~{cls.__module__}.{cls.__name__}`: {said}", ""]
    lines += _title("Details", "-")
    for _, cls in error_tree():
        lines += [f".. autoclass:: {cls.__module__}.{cls.__name__}", "   :show-inheritance:", ""]
    return lines


def _api() -> list[str]:
    lines = [*_title("The API"), ".. contents::", "   :local:", "   :depth: 1", ""]
    known = _classes()
    written: set[object] = {_resolve(known[data]) for _, _, data in event_table() if data in known}
    written.discard(slixmpp_mls.EncryptedMessage)  # described here, since it is more than data
    for name, title in PARTS.items():
        module = importlib.import_module(name)
        lines += [*_title(title.replace("`", ""), "-"), f".. module:: {name}", ""]
        lines += [*inspect.cleandoc(module.__doc__ or "").splitlines(), ""]
        for public in getattr(module, "__all__", [key for key in vars(module) if not key.startswith("_")]):
            value = getattr(module, public)
            home = getattr(value, "__module__", "")
            if not isinstance(home, str) or not home.startswith("slixmpp_mls") or home == errors.__name__:
                continue
            if name == "slixmpp_mls.plugin" and home != name:
                continue
            if not isinstance(value, type) and not inspect.isfunction(value):
                continue
            if value in written:
                continue
            written.add(value)
            kind = "autoclass" if isinstance(value, type) else "autofunction"
            lines += [
                f".. {kind}:: {home}.{value.__qualname__}",
                *(["   :members:"] if kind == "autoclass" else []),
                "",
            ]
    return lines


def settings_table() -> list[tuple[str, str]]:
    """Each setting with its description, from the docstring of the settings."""
    rows: list[tuple[str, str]] = []
    for line in (settings.__doc__ or "").splitlines():
        if found := re.match(r"``(\w+)``\s+(.*)", line):
            rows.append((found[1], found[2]))
        elif rows and line.startswith(" "):
            rows[-1] = (rows[-1][0], f"{rows[-1][1]} {line.strip()}")
    return rows


def _settings() -> list[str]:
    head = (settings.__doc__ or "").partition("\n===")[0]
    lines = [*_title("Settings"), *head.splitlines(), ""]
    for name, said in settings_table():
        lines += [f"``{name}``", f"   {said[:1].upper()}{said[1:]}", ""]
    return lines
