"""Importing the package is cheap: its public names are imported when they are first used (PEP 562)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from slixmpp import ClientXMPP
from slixmpp.plugins.base import PLUGIN_DEPENDENTS, PLUGIN_REGISTRY

import slixmpp_mls
from slixmpp_mls.plugin import MLS


def ask(code: str) -> list[str]:
    """What a new process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_package_alone_imports_little() -> None:
    """Not the engine, and none of the libraries that slixmpp does not import itself."""
    ours = ask("import slixmpp_mls, sys; print(*(name for name in sys.modules if name.startswith('slixmpp_mls')))")
    assert sorted(ours) == ["slixmpp_mls", "slixmpp_mls.errors"]
    others = "('aiohttp', 'cryptography', 'lxml', 'pyhpke', 'rich', 'sqlite3', 'typer')"
    assert ask(f"import slixmpp, sys; before = set(sys.modules); import slixmpp_mls; "
               f"print(*(name for name in {others} if name in sys.modules and name not in before))") == []  # fmt: skip


def test_a_bot_that_only_registers_the_plugin_gets_it() -> None:
    code = (
        "import slixmpp, slixmpp_mls",
        "bot = slixmpp.ClientXMPP('b@b.example', 'p')",
        "bot.register_plugin('mls', {'store': 'b.db'})",
        "print(type(bot.plugin['mls']) is slixmpp_mls.MLS is slixmpp_mls.plugin.MLS)",
    )
    assert ask("; ".join(code)) == ["True"]


async def test_what_stands_for_the_plugin_has_its_dependencies() -> None:
    registered = PLUGIN_REGISTRY["mls"]
    assert (registered.name, registered.dependencies) == (MLS.name, MLS.dependencies)
    assert all("mls" in PLUGIN_DEPENDENTS[name] for name in MLS.dependencies)
    made = registered(ClientXMPP("bob@b.example", "secret"), {"store": "bob.db"})
    assert type(made) is MLS
    assert made.config["store"] == "bob.db"


def test_the_names_are_those_that_type_checkers_see() -> None:
    tree = ast.parse(Path(slixmpp_mls.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {name.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert seen == slixmpp_mls._MODULES
    eager = {"__version__", *slixmpp_mls.errors.__all__}
    assert {*slixmpp_mls.__all__} == {*seen} | eager


@pytest.mark.parametrize("name", slixmpp_mls.__all__)
def test_each_name_is_there(name: str) -> None:
    value = getattr(slixmpp_mls, name)
    assert name in dir(slixmpp_mls)
    assert getattr(value, "__name__", name) == name


def test_packages_are_attributes_and_others_are_not() -> None:
    for package in slixmpp_mls._PACKAGES:
        assert getattr(slixmpp_mls, package).__name__ == f"slixmpp_mls.{package}"
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        _ = slixmpp_mls.Nonsense
