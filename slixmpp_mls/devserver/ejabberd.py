"""ejabberd 23.01 or later: the second temporary server, for compatibility tests and larger rooms.

It starts in about two seconds and takes 90 MB.  It always runs from unpacked Debian packages.

Erlang runs without its distribution protocol: it starts no name daemon (``epmd``) that would outlive the server, shares
no cookie, and opens no additional port.  ``ejabberdctl`` needs all of these.  Administration therefore uses ejabberd's
HTTP API on a Unix socket, in a folder that no other user can enter.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from slixmpp import JID

from ..errors import DevServerError
from .base import C2S_STANZA_LIMIT, S2S_PORT, S2S_STANZA_LIMIT, DevServer, create_database, read_only
from .packages import Recipe, library_folders, unpack

_RECIPE = Recipe(
    "ejabberd",
    ("ejabberd", "erlang-p1-sqlite3", "libnss-wrapper"),
    re.compile(r"ejabberd$|erlang-|libnss-wrapper$"),
)
_ATTEMPTS = 5  # for each command
_ADVICE = "ejabberd is run from Debian's packages: use Debian or Ubuntu, or do without it."


class Ejabberd(DevServer):
    """A temporary ejabberd."""

    software: ClassVar[str] = "ejabberd"

    def __init__(self, domain: str = "", *, force_key_package_node: bool = False, **options: Any) -> None:
        """Prepare a server as :class:`DevServer` does.

        :param force_key_package_node: let the server itself configure the PubSub node of KeyPackages as required, as
            an administrator can.  Stock ejabberd refuses most publish-options and keeps one item per node.
        """
        super().__init__(domain, **options)
        self._force_key_package_node = force_key_package_node
        # The path of a Unix socket is limited to about 100 characters, so it is not under `directory`.
        self._private = tempfile.TemporaryDirectory(prefix="slixmpp-mls-", ignore_cleanup_errors=True)
        self._api = Path(self._private.name) / "api"

    async def close(self) -> None:
        await super().close()
        self._private.cleanup()

    def archive(self, room: JID | str) -> list[str]:
        with read_only(self._database) as database:
            rows = database.execute("SELECT xml FROM archive WHERE username = ? ORDER BY timestamp, id", (str(room),))
            return [xml for (xml,) in rows]

    @property
    def _database(self) -> Path:
        return self.directory / "data" / "ejabberd.sqlite"

    def _install(self) -> None:
        try:
            self._root = unpack(_RECIPE, self._progress)
        except DevServerError as error:
            raise DevServerError(f"no ejabberd: {error}\n{_ADVICE}") from error

    def _configure(self) -> None:
        create_database(self._database, (self._root / "usr/share/ejabberd/sql/lite.sql").read_text())
        # JSON is valid YAML, and a library does the quoting.
        text = "".join(f"{name}: {json.dumps(value)}\n" for name, value in self._settings().items())
        (self.directory / "ejabberd.yml").write_text(text + self._extra_config)
        hosts = f'{{hosts_file, "{self.federation.hosts_file}"}}.\n' if self.federation else ""
        (self.directory / "inetrc").write_text(f'{hosts}{{resolv_conf, ""}}.\n{{lookup, [file]}}.\n')

    def _settings(self) -> dict[str, Any]:
        upload = f"https://{self.host}:{self.http_port}/upload"
        listen: list[dict[str, Any]] = [
            {
                "port": self.port,
                "ip": self.host,
                "module": "ejabberd_c2s",
                "starttls_required": True,
                "max_stanza_size": C2S_STANZA_LIMIT,
            },
            {
                "port": self.http_port,
                "ip": self.host,
                "module": "ejabberd_http",
                "tls": True,
                "request_handlers": {"/upload": "mod_http_upload"},
            },
            {"port": f"unix:{self._api}", "module": "ejabberd_http", "request_handlers": {"/api": "mod_http_api"}},
        ]
        pubsub: dict[str, Any] = {"plugins": ["flat", "pep"], "max_items_node": 1000}
        if self._force_key_package_node:
            pubsub["force_node_config"] = {
                "urn:xmpp:mls:0:key-packages": {
                    "access_model": "open",
                    "max_items": 1000,
                    "notify_retract": True,
                    "send_last_published_item": "never",
                }
            }
        settings: dict[str, Any] = {
            "loglevel": "info",
            "acme": {"auto": False},
            "hosts": [self.domain],
            "certfiles": [str(self.directory / "tls" / "server.pem")],
            "ca_file": str(self.ca_file),
            "listen": listen,
            "s2s_use_starttls": "required",
            "auth_password_format": "scram",
            "default_db": "sql",
            "sql_type": "sqlite",
            "sql_database": str(self._database),
            "acl": {"local": {"user_regexp": ""}},  # accounts that may upload
            "access_rules": {"local": {"allow": "local"}},
            "api_permissions": {
                "owner": {"from": ["mod_http_api"], "who": "all", "what": ["register", "change_password"]}
            },
            "modules": {
                "mod_admin_extra": {},
                "mod_blocking": {},
                "mod_caps": {},
                "mod_carboncopy": {},
                "mod_disco": {},
                "mod_http_upload": {
                    "host": f"share.{self.domain}",
                    "docroot": str(self.directory / "data" / "upload"),
                    "put_url": upload,
                },
                "mod_mam": {"default": "always"},
                "mod_muc": {
                    "host": self.rooms,
                    "max_users": 1000,
                    "max_user_conferences": 1000,
                    "default_room_options": {"mam": True},
                },
                "mod_offline": {},
                "mod_ping": {},
                "mod_privacy": {},
                "mod_pubsub": pubsub,
                "mod_roster": {},
                "mod_stream_mgmt": {},
                "mod_time": {},
                "mod_vcard": {"search": False},
                "mod_version": {},
            },
        }
        if self.federation:
            listen.append(
                {"port": S2S_PORT, "ip": self.host, "module": "ejabberd_s2s_in", "max_stanza_size": S2S_STANZA_LIMIT}
            )
            settings["outgoing_s2s_ipv4_address"] = self.host
            # By default, a peer that was briefly unreachable is not tried again for minutes.
            settings["s2s_max_retry_delay"] = 1
        else:
            settings["s2s_access"] = "none"
        return settings

    def _command(self) -> Sequence[str]:
        database = f'"{self.directory / "data" / "mnesia"}"'  # an Erlang string
        # A busy-waiting scheduler would take processor time from the clients on the same machine.
        calm = ["+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"]
        return [str(self._runtime / "erlexec"), *calm, "-noinput", "-mnesia", "dir", database, "-s", "ejabberd"]

    @property
    def _runtime(self) -> Path:
        return next(self._root.glob("usr/lib/erlang/erts-*/bin"))

    def _environment(self) -> Mapping[str, str]:
        folders = ":".join(map(str, library_folders(self._root)))
        environment = {
            # Variables that the start scripts of Erlang and ejabberd set; these assume the installed paths.
            "ROOTDIR": str(self._root / "usr/lib/erlang"),
            "BINDIR": str(self._runtime),
            "EMU": "beam",
            "PROGNAME": "erl",
            "ERL_LIBS": folders,
            "ERL_INETRC": str(self.directory / "inetrc"),
            "ERL_CRASH_DUMP_SECONDS": "0",
            "EJABBERD_CONFIG_PATH": str(self.directory / "ejabberd.yml"),
            # The whole log is also printed.
            "EJABBERD_LOG_PATH": str(self.directory / "erlang-log" / "ejabberd.log"),
            "HOME": str(self.directory),
            "LD_LIBRARY_PATH": folders,
        }
        if self.federation:
            # ejabberd resolves other servers' addresses by the C library, not by Erlang's `inetrc`.
            wrapper = next(folder / "libnss_wrapper.so" for folder in library_folders(self._root))
            environment |= {"LD_PRELOAD": str(wrapper), "NSS_WRAPPER_HOSTS": str(self.federation.hosts_file)}
        return environment

    async def _register(self, name: str, password: str) -> None:
        account = {"user": name, "host": self.domain}
        status, answer = await self._command_api("register", account | {"password": password})
        if status == 409:  # the account exists
            status, answer = await self._command_api("change_password", account | {"newpass": password})
        if status != 200:
            raise DevServerError(f"ejabberd cannot register {name}@{self.domain}: {answer}")

    async def _command_api(self, command: str, arguments: Mapping[str, str]) -> tuple[int, str]:
        """Run an idempotent command, again after a failure: a busy ejabberd closes some of many connections."""
        import aiohttp  # takes as long to import as the rest, and each command of ours imports this module

        for attempt in range(_ATTEMPTS):
            try:
                async with (
                    aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._api))) as http,
                    http.post(f"http://localhost/api/{command}", json=arguments) as response,
                ):
                    return response.status, await response.text()
            except (aiohttp.ClientError, TimeoutError) as error:
                failure = error
            await asyncio.sleep(random.uniform(0.5, 1.5) * 0.2 * 2**attempt)  # noqa: S311
        raise DevServerError(f"ejabberd does not answer: {failure}") from failure
