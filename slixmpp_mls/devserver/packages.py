"""Runs server software from Debian packages, without root and without an installation.

On Debian and its derivatives, a server can run directly from the unpacked files of its packages.  :func:`unpack`
determines the packages, downloads them with ``apt-get download`` and unpacks them once with ``dpkg -x`` into a folder
of the user's cache:

1. *Resolve.*  ``apt-get -s install`` against an **empty** dpkg status lists everything the server
   needs, down to the C library.  Two kinds are kept: the packages of the server's own family (its run
   time and modules must be in one tree, whatever is installed), and the shared libraries that this
   machine lacks.  A minimal container image thus gets more packages than a desktop.
2. *Download.*  The system's package lists are tried first.  If they are missing or outdated (new
   container images have none, and only root can refresh them), private lists are fetched into the
   cache from the sources that the system's administrator configured.
3. *Unpack.*  The packages are unpacked into a temporary folder, which is renamed when complete: a tree
   in the cache is never partial.  A lock on a file in the same folder lets parallel callers wait for the first.

A tree is checked again if the machine's packages have changed since, because a library that was installed
then may be missing now.

The folder is ``$SLIXMPP_MLS_CACHE``, otherwise ``slixmpp-mls`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
It may be deleted at any time when no server runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import DevServerError

#: Called during long steps with a sentence for users, the amount done and the total amount (0: unknown).
ReportDownload = Callable[[str, int, int], None]

_STATUS = Path("/var/lib/dpkg/status")
_SYSTEM_LISTS = Path("/var/lib/apt/lists")
_DOWNLOAD_SECONDS = 600
# Needed only by the packages' installation scripts, which do not run here.
_NEEDLESS = re.compile(r"lib.*-perl$|libperl|libpam|libsemanage|libaudit|libcap-ng")


@dataclass(frozen=True)
class Recipe:
    """The packages to unpack.

    :ivar name: the name of the folder in the cache.
    :ivar packages: the Debian packages; their dependencies are included, their recommendations are not.
    :ivar family: matches the start of the names of packages to include even if they are installed.
    """

    name: str
    packages: tuple[str, ...]
    family: re.Pattern[str]


def quiet(message: str, done: int, total: int) -> None:
    """A :data:`ReportDownload` that reports nothing."""


def cache_folder() -> Path:
    """The folder of unpacked packages; it may not exist yet."""
    if own := os.environ.get("SLIXMPP_MLS_CACHE"):
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "slixmpp-mls"


def unpack(recipe: Recipe, progress: ReportDownload = quiet) -> Path:
    """Return the root of a tree with the recipe's packages; download them at first use.

    It blocks, for minutes on a slow network: call it in a thread.

    :raises DevServerError: this is no Debian, there is no network, or the packages do not exist here.
    """
    for tool in ("apt-get", "dpkg", "dpkg-query"):
        if shutil.which(tool) is None:
            raise DevServerError(f"cannot unpack Debian packages here: no `{tool}`")
    folder = cache_folder()
    root = folder / f"{recipe.name}-{_fingerprint(recipe)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{root.name}.lock"):
            if root.is_dir() and not _complete(root):
                shutil.rmtree(root)
            if not root.is_dir():
                _build(recipe, root, progress)
                if not _complete(root):
                    missing = ", ".join(sorted(missing_libraries(root)))
                    raise DevServerError(f"the unpacked packages of {recipe.name} lack shared libraries: {missing}")
    except OSError as error:
        raise DevServerError(f"cannot unpack {recipe.name} into {folder}: {error}") from error
    return root


def library_folders(root: Path) -> list[Path]:
    """The tree's folders of shared libraries, such as ``usr/lib/x86_64-linux-gnu``."""
    found = [*root.glob("usr/lib/*-linux-*"), *root.glob("lib/*-linux-*")]
    return [path for path in found if path.is_dir() and not path.is_symlink()]


def missing_libraries(root: Path) -> set[str]:
    """The names of shared libraries that programs and modules in the tree need but the loader cannot find."""
    binaries = [
        str(path)
        for path in (root / "usr").rglob("*")
        if path.is_file() and not path.is_symlink() and (path.suffix == ".so" or "bin" in path.parent.name)
    ]
    if not binaries or shutil.which("ldd") is None:
        return set()
    environment = {"LD_LIBRARY_PATH": ":".join(map(str, library_folders(root)))}
    try:
        done = subprocess.run(  # noqa: S603
            ["ldd", *binaries],  # noqa: S607
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_SECONDS,  # it starts each of them, on a machine that may be busy
            check=False,  # scripts among the programs make it return an error
        )
    except subprocess.TimeoutExpired as error:
        raise DevServerError(f"`ldd` took more than {_DOWNLOAD_SECONDS} seconds") from error
    return {line.split()[0] for line in done.stdout.splitlines() if line.endswith("=> not found")}


def _fingerprint(recipe: Recipe) -> str:
    """Distinguish the releases, architectures and recipes that share one cache (a home folder on a file server)."""
    release = platform.freedesktop_os_release()
    system = (release.get("ID"), release.get("VERSION_ID", release.get("VERSION_CODENAME")), platform.machine())
    return hashlib.sha256(repr((system, recipe.packages, recipe.family.pattern)).encode()).hexdigest()[:12]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _complete(root: Path) -> bool:
    """Whether the machine still has the libraries that were left out of the tree."""
    stamp = root / "checked-against"
    now = str(_STATUS.stat().st_mtime_ns)
    if stamp.is_file() and stamp.read_text() == now:
        return True
    if missing_libraries(root):
        return False
    stamp.write_text(now)
    return True


def _build(recipe: Recipe, root: Path, progress: ReportDownload) -> None:
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f"{root.name}.", ignore_cleanup_errors=True) as work:
        apt = _Apt(Path(work))
        debs = apt.download(recipe, progress)
        tree = Path(work) / "root"
        tree.mkdir(mode=0o755)
        for number, deb in enumerate(debs):
            progress(f"Unpacking {deb.name.partition('_')[0]}", number, len(debs))
            _run(["dpkg", "-x", str(deb), str(tree)], Path(work))
        progress(f"Unpacked {recipe.name}", len(debs), len(debs))
        tree.rename(root)


class _Apt:
    """``apt-get`` with its state in a folder of ours."""

    def __init__(self, work: Path) -> None:
        self._work = work
        for folder in ("debs", "apt/cache/archives/partial", "apt/state/lists/partial"):
            (work / folder).mkdir(parents=True)
        (work / "apt/status").touch()
        self._options = [
            f"Dir::State={work}/apt/state",
            f"Dir::State::status={work}/apt/status",
            f"Dir::Cache={work}/apt/cache",
            "Acquire::Retries=2",
            "Acquire::http::Timeout=30",
            "Acquire::https::Timeout=30",
            "Debug::NoLocking=true",
        ]
        if os.geteuid() == 0:
            # Otherwise apt downloads as a user of its own, which may not enter our folder.
            self._options.append("APT::Sandbox::User=root")

    def download(self, recipe: Recipe, progress: ReportDownload) -> list[Path]:
        try:
            return self._download(recipe, progress, [f"Dir::State::lists={_SYSTEM_LISTS}"])
        except DevServerError:
            # There are no lists, or they are too old: their packages are no longer served.
            progress("Fetching Debian's package lists", 0, 0)
        failure: DevServerError | None = None
        try:
            self._apt("update")
        except DevServerError as error:
            # An administrator's hooks of `update` may need root; the only criterion is whether lists arrived.
            failure = error
        try:
            return self._download(recipe, progress, [])
        except DevServerError as error:
            raise DevServerError(f"no Debian packages of {recipe.name}: {failure or error}") from error

    def _download(self, recipe: Recipe, progress: ReportDownload, options: list[str]) -> list[Path]:
        progress(f"Looking up the packages of {recipe.name}", 0, 0)
        plan = self._apt("install", "-s", "--no-install-recommends", *recipe.packages, options=options)
        everything = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
        installed = set(_run(["dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Package}\n"], self._work).splitlines())
        names = [
            name
            for name in everything
            if recipe.family.match(name)
            or (name.startswith("lib") and f"ii {name}" not in installed and not _NEEDLESS.match(name))
        ]
        if not names:
            raise DevServerError(f"apt-get found nothing to download for {recipe.name}")
        progress(f"Downloading {len(names)} Debian packages of {recipe.name}", 0, len(names))
        self._apt("download", *names, options=options)
        return sorted((self._work / "debs").glob("*.deb"))

    def _apt(self, *arguments: str, options: list[str] | None = None) -> str:
        settings = [part for option in [*self._options, *(options or [])] for part in ("-o", option)]
        return _run(["apt-get", "-q", *settings, *arguments], self._work / "debs")


def _run(command: list[str], folder: Path) -> str:
    """Run a tool to its end and return what it printed.

    :raises DevServerError: it failed; the text ends with its last error output.
    """
    try:
        done = subprocess.run(  # noqa: S603
            command,
            cwd=folder,
            env=os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DOWNLOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DevServerError(f"`{command[0]}` took more than {_DOWNLOAD_SECONDS} seconds") from error
    if done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-6:])
        raise DevServerError(f"`{command[0]}` failed:\n{tail}")
    return done.stdout
