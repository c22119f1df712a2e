"""How Sphinx builds the site: ``make docs``.

Pages are Markdown (MyST).  Two pages are made from the code when the site is built: the command line, from the Typer
application, and the tree of errors, from the classes.  The rendered specification is copied beside the site.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import generate  # noqa: E402

import slixmpp_mls  # noqa: E402

project = "slixmpp-mls"
author = "The slixmpp-mls developers"
copyright = author
release = version = slixmpp_mls.__version__
today = release  # the date of the man page: the same pages come from the same code

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.intersphinx", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["upstream"]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"slixmpp-mls {release}"
html_static_path: list[str] = []
html_extra_path = ["_build/extra"]
html_theme_options = {"source_repository": "https://github.com/slixmpp-mls/slixmpp-mls/", "source_branch": "main",
                      "source_directory": "docs/"}  # fmt: skip

man_pages = [("reference/generated/command-line", "slixmpp-mls", "end-to-end encrypted XMPP rooms", author, 1)]
man_show_urls = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
add_module_names = False
python_display_short_literal_types = True
intersphinx_mapping: dict[str, tuple[str, None]] = {}  # the site is built and checked without a network

generate.everything()
