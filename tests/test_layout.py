"""The shape of the import graph that no contract of import-linter states; see ``[tool.importlinter]``.

The contract ``cycles`` compares the modules of one folder.  A module that imports the face (``__init__``) of a package
in which it stands makes a cycle of another kind, if the face imports it in turn.  With neither, no cycle is possible.
"""

from __future__ import annotations

import inspect
import re

import pytest

from slixmpp_mls import errors

grimp = pytest.importorskip("grimp")


def test_no_module_imports_the_face_of_its_own_package() -> None:
    graph = grimp.build_graph("slixmpp_mls", cache_dir=None)
    faces = [
        (module, imported)
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if module.startswith(f"{imported}.")
    ]
    assert faces == []


def test_the_tree_of_errors_names_each_class_below_its_base() -> None:
    """The docstring of `errors` draws the tree; four columns are one step down."""
    drawn: dict[str, str] = {}
    path = ["MLSError"]
    for indent, name in re.findall(r"^ {4}([ │]*)[├└]── (\w+)", errors.__doc__ or "", re.MULTILINE):
        depth = len(indent) // 4 + 1
        path[depth:] = [name]
        drawn[name] = path[depth - 1]
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass) if each.__module__ == errors.__name__]
    bases = {each.__name__: each.__base__.__name__ for each in classes if each.__base__ is not None}
    assert drawn == {name: base for name, base in bases.items() if name != "MLSError"}
