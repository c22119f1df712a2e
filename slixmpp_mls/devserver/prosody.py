"""Prosody 0.12 or later: the default temporary server.  It starts in half a second and takes 20 MB."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from slixmpp import JID

from ..errors import DevServerError
from .base import (
    C2S_STANZA_LIMIT,
    S2S_PORT,
    S2S_STANZA_LIMIT,
    START_SECONDS,
    DevServer,
    create_database,
    find_program,
    read_only,
)
from .packages import Recipe, library_folders, unpack

_RECIPE = Recipe("prosody", ("prosody", "lua-dbi-sqlite3", "lua-unbound"), re.compile(r"prosody$|lua\d|lua-|liblua"))
_ADVICE = (
    "Install Prosody 0.12 or later with its SQLite and DNS libraries for Lua (on Debian and Ubuntu: "
    "`apt install prosody lua-dbi-sqlite3 lua-unbound`), or run this on Debian or Ubuntu, where it is fetched."
)

_GLOBAL = """
data_path = %(data)s
certificates = %(certificates)s
log = { info = %(log)s }
interfaces = { %(host)s }
local_interfaces = { %(host)s }
c2s_ports = { %(port)d }
http_ports = {}
https_interfaces = { %(host)s }
https_ports = { %(http_port)d }
http_host = %(host)s
ssl = { certificate = %(certificate)s; key = %(key)s; cafile = %(ca_file)s; capath = false }
https_ssl = { certificate = %(certificate)s; key = %(key)s }
c2s_require_encryption = true
c2s_stanza_size_limit = %(c2s_limit)d
run_as_root = %(is_root)s
modules_enabled = {
  "roster", "saslauth", "tls", "disco", "ping", "pep", "carbons", "smacks", "mam", "offline", "blocklist",
  "dialback", "vcard4", "vcard_legacy", "version", "time"
}
authentication = "internal_hashed"
-- Accounts in files of their own: prosodyctl then does not contend with the server for the database.
storage = { accounts = "internal" }
default_storage = "sql"
sql = { driver = "SQLite3", database = %(database)s }
archive_expires_after = "never"
muc_log_expires_after = "never"
max_archive_query_results = 250
http_file_share_expires_after = -1
-- Lua's own values, nearly. With Prosody's (105 and 500) it spends most of its time on looking for garbage.
gc = { mode = "incremental", threshold = 200, speed = 400 }
"""

_ALONE = """
modules_disabled = { "s2s" }
"""

_FEDERATED = """
s2s_ports = { %(s2s_port)d }
s2s_require_encryption = true
s2s_secure_auth = true
s2s_stanza_size_limit = %(s2s_limit)d
-- All names come from the file. The static zone answers "no" to everything else, such as SRV records, at once.
unbound = { hoststxt = %(hosts)s; resolvconf = false; options = { ["local-zone:"] = ". static" } }
"""

_HOSTS = """
VirtualHost %(domain)s
Component %(rooms)s "muc"
  modules_enabled = { "muc_mam" }
Component %(share)s "http_file_share"
"""


class Prosody(DevServer):
    """A temporary Prosody: the installed one, or Debian's packages unpacked into the user's cache."""

    software: ClassVar[str] = "Prosody"

    def archive(self, room: JID | str) -> list[str]:
        jid = JID(room)
        with read_only(self._database) as database:
            rows = database.execute(
                "SELECT value FROM prosodyarchive WHERE host = ? AND user = ? AND store = 'muc_log' ORDER BY sort_id",
                (jid.domain, jid.local),
            )
            return [value for (value,) in rows]

    @property
    def _database(self) -> Path:
        return self.directory / "data" / "prosody.sqlite"

    def _install(self) -> None:
        self._lua = ["/usr/bin/env", "lua"]
        self._root = Path("/")
        self._paths: dict[str, str] = {}
        problem = self._find_installed()
        if not problem:
            return
        try:
            root = unpack(_RECIPE, self._progress)
        except DevServerError as error:
            raise DevServerError(f"no Prosody: {problem}; {error}\n{_ADVICE}") from error
        interpreter = next(iter(sorted(root.glob("usr/bin/lua5.*"), reverse=True)))
        version = interpreter.name.removeprefix("lua")
        suffix = "" if version == "5.1" else "_" + version.replace(".", "_")
        folders = library_folders(root)
        own = root / "usr/lib/prosody"
        shared = root / "usr/share/lua" / version
        compiled = [f"{folder}/lua/{version}/?.so" for folder in folders]
        self._root = root
        self._lua = [str(interpreter)]
        self._paths = {
            "LD_LIBRARY_PATH": ":".join(map(str, folders)),
            f"LUA_PATH{suffix}": ";".join([f"{own}/?.lua", f"{shared}/?.lua", f"{shared}/?/init.lua", ";"]),
            f"LUA_CPATH{suffix}": ";".join([f"{own}/?.so", *compiled, ";"]),
        }

    def _find_installed(self) -> str:
        """Use the machine's own Prosody, or return the reason against it."""
        programs = [find_program(name) for name in ("prosody", "prosodyctl")]
        if None in programs:
            return "none is installed"
        self._programs = [str(program) for program in programs]
        interpreter = Path(self._programs[0]).read_bytes().split(b"\n", 1)[0].decode("utf-8", "replace")
        if not interpreter.startswith("#!") or "lua" not in interpreter:
            return "the installed one is no Lua program"
        lua = interpreter[2:].split()
        try:
            command = [*lua, "-e", "require 'DBI'; require 'lunbound'"]
            done = subprocess.run(command, capture_output=True, timeout=START_SECONDS, check=False)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired):
            return "the installed one has no Lua to run it"
        if done.returncode != 0:
            return "the installed one lacks lua-dbi-sqlite3 or lua-unbound"
        self._lua = lua
        return ""

    def _configure(self) -> None:
        create_database(self._database)
        values: dict[str, object] = {
            "data": self._database.parent,
            "log": self.directory / "log" / "prosody.log",
            "certificates": self.directory / "tls",
            "certificate": self.directory / "tls" / "server.crt",
            "key": self.directory / "tls" / "server.key",
            "ca_file": self.ca_file,
            "database": self._database,
            "host": self.host,
            "hosts": self.federation.hosts_file if self.federation else "",
            "domain": self.domain,
            "rooms": self.rooms,
            "share": f"share.{self.domain}",
        }
        quoted: dict[str, object] = {name: _lua_string(str(value)) for name, value in values.items()}
        quoted |= {"port": self.port, "http_port": self.http_port, "s2s_port": S2S_PORT}
        quoted |= {"c2s_limit": C2S_STANZA_LIMIT, "s2s_limit": S2S_STANZA_LIMIT}
        quoted |= {"is_root": "true" if os.geteuid() == 0 else "false"}
        text = (_GLOBAL + (_FEDERATED if self.federation else _ALONE)) % quoted
        (self.directory / "prosody.cfg.lua").write_text(text + self._extra_config + "\n" + _HOSTS % quoted)
        if self._root != Path("/"):
            self._programs = [str(self._relocate(name)) for name in ("prosody", "prosodyctl")]

    def _relocate(self, name: str) -> Path:
        """Copy one of Prosody's two programs, with its built-in paths changed to the unpacked folders."""
        source = (self._root / "usr/bin" / name).read_text()
        for variable, path in (
            ("SOURCE", self._root / "usr/lib/prosody"),
            ("PLUGIN", f"{self._root}/usr/lib/prosody/modules/"),
            ("CONFIG", self.directory),
            ("DATA", self._database.parent),
        ):
            before, _, rest = source.partition(f"CFG_{variable}DIR=")
            source = f"{before}CFG_{variable}DIR={_lua_string(str(path))};\n{rest.partition(chr(10))[2]}"
        copy = self.directory / f"{name}.lua"
        copy.write_text(source)
        return copy

    def _command(self) -> Sequence[str]:
        return [*self._lua, self._programs[0], "-F", "--config", str(self.directory / "prosody.cfg.lua")]

    def _environment(self) -> Mapping[str, str]:
        return self._paths

    async def _register(self, name: str, password: str) -> None:
        config = str(self.directory / "prosody.cfg.lua")
        command = [*self._lua, self._programs[1], "--config", config, "register", name, self.domain, password]
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            env=os.environ | self._paths,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise DevServerError(f"prosodyctl cannot register {name}@{self.domain}: {done.stdout}{done.stderr}")


def _lua_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
