"""The shape of the import graph that no contract of import-linter states; see ``[tool.importlinter]``.

The contract ``cycles`` compares the modules of one folder.  A module that imports the face (``__init__``) of a package
in which it stands makes a cycle of another kind, if the face imports it in turn.  With neither, no cycle is possible.
"""

from __future__ import annotations

import pytest

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
