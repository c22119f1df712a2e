#!/usr/bin/env python3
"""Build what is published, and check it as its users and the index will: ``make release-check``.

1. Build the wheel and install it into an empty environment, as a user would.
2. Run the installed package there: import, command line, plugin, entry points, and no file of the clone in reach.
3. List what the environment now contains as a bill of materials (CycloneDX), write the man page from the command
   line's own help, and build both files again with them.
4. Check the files: metadata (``twine check --strict``), contents of the wheel and of the source distribution.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SBOM = ROOT / "sbom.cdx.json"
MAN_PAGE = ROOT / "slixmpp-mls.1"

SMOKE = """
import importlib.metadata, pathlib, sys
from slixmpp import ClientXMPP
import slixmpp_mls
assert pathlib.Path(slixmpp_mls.__file__).is_relative_to(sys.prefix), slixmpp_mls.__file__
assert slixmpp_mls.__version__ == importlib.metadata.version("slixmpp-mls") == sys.argv[1]
bot = ClientXMPP("bot@example.org/x", "")
bot.register_plugin("mls", {"store": "bot.db"})
assert slixmpp_mls.MLS.of(bot) is bot.plugin["mls"]
"""

IN_SDIST = (
    "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "Makefile", "hatch_build.py",
    "xep/mls.xml", "xep/mls.xsd", "docs/conf.py", "sbom.cdx.json", "slixmpp-mls.1", "tests/conftest.py",
    "benchmarks/README.md",
    "examples/echo_bot.py", "slixmpp_mls/py.typed", ".ci/run",
)  # fmt: skip
"""What must be in the source distribution, so that a distribution can build, test and document from it."""


def run(*command: str | Path, folder: Path = ROOT) -> str:
    """Run a command and return what it printed; an error shows it and ends the program."""
    print("  $", " ".join(str(part) for part in command[:6]), flush=True)
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed: {' '.join(str(part) for part in command)}")
    return done.stdout


def build(into: Path) -> tuple[Path, Path]:
    """Build the source distribution, and the wheel from it; both paths."""
    shutil.rmtree(into, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", into, ROOT)
    (sdist,), (wheel,) = into.glob("*.tar.gz"), into.glob("*.whl")
    return sdist, wheel


def check_installation(wheel: Path, version: str, folder: Path) -> None:
    """Install into an empty environment, run there, and write the bill of materials."""
    run(sys.executable, "-m", "venv", folder / "venv")
    programs = folder / "venv" / "bin"
    run(programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    run(programs / "python", "-m", "pip", "check")
    run(programs / "python", "-c", SMOKE, version, folder=folder)
    if version not in run(programs / "slixmpp-mls", "--version", folder=folder):
        sys.exit("the command prints another version")
    run(programs / "slixmpp-mls", "--help", folder=folder)
    run(programs / "python", "-m", "pip", "uninstall", "--quiet", "--yes", "pip", "setuptools", folder=folder)
    run(
        Path(sys.executable).parent / "cyclonedx-py", "environment", programs / "python",
        "--pyproject", ROOT / "pyproject.toml", "--mc-type", "library", "--output-reproducible", "--output-file", SBOM,
    )  # fmt: skip


def make_man_page(folder: Path) -> None:
    """Have Sphinx write the man page of the command."""
    run(sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "-b", "man", ROOT / "docs", folder)
    shutil.copyfile(folder / MAN_PAGE.name, MAN_PAGE)


def check_contents(sdist: Path, wheel: Path, version: str) -> None:
    """Compare the names in both files with what belongs there."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    metadata = f"slixmpp_mls-{version}.dist-info"
    data = f"slixmpp_mls-{version}.data/data"
    foreign = {name for name in names if not name.startswith(("slixmpp_mls/", f"{metadata}/", f"{data}/share/man/"))}
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "slixmpp_mls").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wanted = package | {f"{metadata}/{name}" for name in ("METADATA", "entry_points.txt", "licenses/LICENSE")}
    wanted |= {f"{metadata}/sboms/{SBOM.name}", f"{data}/share/man/man1/{MAN_PAGE.name}"}
    if foreign or wanted - names:
        sys.exit(f"the wheel has {sorted(foreign)} too many, and lacks {sorted(wanted - names)}")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    if lacking := set(IN_SDIST) - inside:
        sys.exit(f"the source distribution lacks {sorted(lacking)}")


def check_changelog(version: str) -> None:
    """The newest heading of the changelog is this version's, or still "Unreleased"."""
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    if headings[0] not in (version, "Unreleased"):
        sys.exit(f"CHANGELOG.md begins with {headings[0]}, pyproject.toml says {version}")


def main() -> None:
    """The entry point."""
    parser = argparse.ArgumentParser(
        description="Build the source distribution and the wheel, and check both.",
        epilog="Example: make release-check",
    )
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="where the files are left (dist/)")
    options = parser.parse_args()
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    check_changelog(version)
    for made in (SBOM, MAN_PAGE):
        made.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        print("Building, and installing into an empty environment ...")
        _, wheel = build(Path(folder) / "first")
        check_installation(wheel, version, Path(folder))
        make_man_page(Path(folder) / "man")
    print("Building again, with the bill of materials and the man page ...")
    sdist, wheel = build(options.dist)
    print("Checking ...")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    check_contents(sdist, wheel, version)
    print(f"{sdist.name} and {wheel.name} are fit to be published.")


if __name__ == "__main__":
    main()
