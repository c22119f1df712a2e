"""Puts what is made from the code into the wheel: the bill of materials (PEP 770) and the man page.

``make release-check`` makes both files, and the source distribution carries them.  A wheel that is built without
them, such as by ``pip install .`` in a clone, is the same but for these two.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SBOM = "sbom.cdx.json"
MAN_PAGE = "slixmpp-mls.1"


class MadeFiles(BuildHookInterface[Any]):
    """A build hook of Hatchling, named in ``pyproject.toml``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before a wheel is built: name the files."""
        if version != "standard":  # an editable installation
            return
        root = Path(self.root)
        if (root / SBOM).is_file():
            build_data["sbom_files"].append(SBOM)
        if (root / MAN_PAGE).is_file():
            build_data["shared_data"][str(root / MAN_PAGE)] = f"share/man/man1/{MAN_PAGE}"
