"""The account that a program logs in with, and the sources of its settings.

A setting has three sources, and the first one that has a value counts: the program's own arguments (such as options
of a command), the environment, and a configuration file::

    # ~/.config/slixmpp-mls/config.toml  (or $XDG_CONFIG_HOME/slixmpp-mls/config.toml, or $MLS_CONFIG)
    jid = "ci@example.org"
    password_file = "~/.secrets/ci"          # or password_command = "pass show ci", or password = "..."
    store = "~/ci.db"

    [accounts."alice@example.org"]           # more accounts, chosen by their address
    password_command = "secret-tool lookup jid alice@example.org"
    host = "xmpp.example.org"

====================  =========================  ==================================================================
setting               environment                meaning
====================  =========================  ==================================================================
``jid``               ``XMPP_JID``               the account: a bare JID
``password``          ``XMPP_PASSWORD``          allowed in the file only if no other user may read it
``password_file``     ``XMPP_PASSWORD_FILE``     a file whose first line is the password
``password_command``  ``XMPP_PASSWORD_COMMAND``  a command that prints it; no shell is involved
``host``              ``XMPP_HOST``              the server's address, if it is not in DNS
``port``              ``XMPP_PORT``              its client port (STARTTLS), used with ``host``; default 5222
``ca``                ``XMPP_CA_FILE``           a file (PEM) of the authorities to trust instead of the system's (which
                                                 OpenSSL's ``SSL_CERT_FILE`` can also set)
``store``             ``MLS_STORE``              the file for keys and groups; default: one per account in
                                                 ``$XDG_DATA_HOME/slixmpp-mls`` (``~/.local/share/slixmpp-mls``)
``key_file``          ``MLS_STORE_KEY_FILE``     the key file of an encrypted store
====================  =========================  ==================================================================

At the top level of the file, ``host``, ``port`` and ``ca`` apply to all accounts; the other settings apply to the
account that is named there.  The environment applies to whichever account is used.
"""

from __future__ import annotations

import os
import shlex
import ssl
import stat
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from slixmpp import JID, ClientXMPP, InvalidJID

from ..errors import UsageError

__all__ = ["Client", "Login", "bare_jid", "config_file", "default_store"]

PORT: Final = 5222
_COMMAND_SECONDS: Final = 60.0
_MAX_CONFIG: Final = 1 << 20
_VARIABLES: Final = {
    "jid": "XMPP_JID",
    "password": "XMPP_PASSWORD",
    "password_file": "XMPP_PASSWORD_FILE",
    "password_command": "XMPP_PASSWORD_COMMAND",
    "host": "XMPP_HOST",
    "port": "XMPP_PORT",
    "ca": "XMPP_CA_FILE",
    "store": "MLS_STORE",
    "key_file": "MLS_STORE_KEY_FILE",
}
_PASSWORDS: Final = ("password", "password_file", "password_command")
_SHARED: Final = ("host", "port", "ca")  # settings that all accounts share


def bare_jid(text: str) -> str:
    """The normalised address of an account or a room.

    :raises UsageError: the text is not a bare JID with a local part
    """
    try:
        jid = JID(text)
    except (InvalidJID, ValueError):
        jid = JID()
    if not jid.local or jid.resource:
        raise UsageError(f"{text!r} is no address of the form name@server")
    return str(jid)


def config_file() -> Path:
    """The path of the configuration file, whether or not it exists."""
    named = os.environ.get("MLS_CONFIG")
    if named:
        return Path(named).expanduser()
    folder = os.environ.get("XDG_CONFIG_HOME")
    return (Path(folder) if folder else Path.home() / ".config") / "slixmpp-mls" / "config.toml"


def default_store(account: str) -> Path:
    """The default store of an account.  Its folder is created together with the store."""
    folder = os.environ.get("XDG_DATA_HOME")
    return (Path(folder) if folder else Path.home() / ".local" / "share") / "slixmpp-mls" / f"{account}.db"


class Client(ClientXMPP):
    """A client that knows the address of its server: ``connect()`` without arguments goes there.

    :ivar server_address: host and port; None if DNS is used
    """

    def __init__(self, jid: str, password: str, address: tuple[str, int] | None, context: ssl.SSLContext) -> None:
        super().__init__(jid, password, ssl_context=context)
        self.server_address = address
        self.enable_plaintext = False
        # A configured address is that of the usual client port, which uses STARTTLS.
        self.enable_direct_tls = address is None

    def connect(self, host: str | None = None, port: int | None = None) -> Any:
        """As in slixmpp; without arguments, connect to `server_address`."""
        if host is None and self.server_address is not None:
            host, port = self.server_address
        return super().connect(host, port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """An account, the address of its server, and the store of this device.

    :ivar jid: bare JID
    :ivar password: the password, or a function that returns it when it is needed
    :ivar host: the server's address; None: DNS is used
    :ivar ca: file of authorities; None: the system's
    :ivar store: the store of this device
    :ivar key_file: the key file of the store, if it is encrypted with one
    """

    jid: str
    password: str | Callable[[], str] | None = field(default=None, repr=False)
    host: str | None = None
    port: int = PORT
    ca: Path | None = None
    store: Path
    key_file: Path | None = None

    @classmethod
    def load(cls, jid: str | None = None, **given: Any) -> Login:
        """Read the settings that are not given from the sources of this module.

        :param jid: the account
        :param given: other settings by name; None counts as not given
        :raises UsageError: no account is named, or a setting is unknown, malformed or cannot be read
        """
        unknown = given.keys() - _VARIABLES.keys()
        if unknown:
            raise UsageError(f"there is no setting {min(unknown)!r}; there are {', '.join(_VARIABLES)}")
        first = {name: value for name, value in given.items() if value is not None}
        second = {name: text for name, variable in _VARIABLES.items() if (text := os.environ.get(variable))}
        whole = _read_config(config_file())
        account = jid or second.get("jid") or whole.get("jid")
        if account is None:
            raise UsageError(f"which account? give one, set XMPP_JID, or write jid = ... into {config_file()}")
        account = bare_jid(account)
        third = _of_account(whole, account)
        found = {**third, **second, **first}
        password = _password(first) or _password(second) or _password(third)
        return cls(
            jid=account,
            password=password,
            host=found.get("host"),
            port=_port(found.get("port", PORT)),
            ca=_path(found.get("ca")),
            store=_path(found.get("store")) or default_store(account),
            key_file=_path(found.get("key_file")),
        )

    def client(self, ask: Callable[[str], str] | None = None) -> Client:
        """Make a client without the plugin, not connected yet.

        :param ask: called with a question if no source has a password; returns the password
        :raises UsageError: no password, or no such file of authorities
        """
        password = self.password() if callable(self.password) else self.password
        if password is None:
            if ask is None:
                raise UsageError(f"no password for {self.jid}: set XMPP_PASSWORD, or see {config_file()}")
            password = ask(f"Password of {self.jid}: ")
        try:
            context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"{self.ca} holds no certificates that can be read: {error}") from None
        return Client(self.jid, password, None if self.host is None else (self.host, self.port), context)

    def bot(self, *, ask: Callable[[str], str] | None = None, **settings: Any) -> Client:
        """Make a client with the plugin, not connected yet.

        :func:`slixmpp_mls.run` and :func:`slixmpp_mls.connected` connect it.

        :param settings: settings of the plugin, see :mod:`.settings`; the default store is the one of this login
        :raises UsageError: as :meth:`client`; a setting is wrong
        """
        client = self.client(ask)
        if "store" not in settings:
            self.make_folder()
        if self.key_file is not None and "passphrase" not in settings:
            settings.setdefault("key_file", self.key_file)
        client.register_plugin("mls", {"store": self.store, **settings})
        return client

    def make_folder(self) -> None:
        """Create the folder of the default store, for our user alone."""
        if self.store == default_store(self.jid):
            self.store.parent.mkdir(parents=True, exist_ok=True, mode=0o700)


# --- where it stands -------------------------------------------------------------------------


def _read_config(path: Path) -> dict[str, Any]:
    """Read the configuration file; empty if there is none.

    :raises UsageError: it cannot be read, has an unknown setting, or shows a password to other users
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            text = file.read(_MAX_CONFIG + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    try:
        whole = tomllib.loads(text[:_MAX_CONFIG].decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from None
    accounts = whole.get("accounts", {})
    if not isinstance(accounts, dict) or not all(isinstance(one, dict) for one in accounts.values()):
        raise UsageError(f'{path}: accounts are tables: [accounts."name@server"]')
    for table in (whole, *accounts.values()):
        for name, value in table.items():
            if table is whole and name == "accounts":
                continue
            if name not in _VARIABLES or (table is not whole and name == "jid"):
                raise UsageError(f"{path}: there is no setting {name!r}; there are {', '.join(_VARIABLES)}")
            if not isinstance(value, str) and (name != "port" or isinstance(value, bool) or not isinstance(value, int)):
                raise UsageError(f"{path}: {name} is a text{' or a number' if name == 'port' else ''}")
        if "password" in table and status.st_mode & (stat.S_IRGRP | stat.S_IROTH):
            raise UsageError(f"{path} holds a password, and others can read it: chmod 600 {shlex.quote(str(path))}")
    return whole


def _of_account(whole: Mapping[str, Any], account: str) -> dict[str, Any]:
    found = {name: whole[name] for name in _SHARED if name in whole}
    if "jid" in whole and bare_jid(whole["jid"]) == account:
        found = {name: value for name, value in whole.items() if name != "accounts"}
    for name, table in whole.get("accounts", {}).items():
        if bare_jid(name) == account:
            if any(each in table for each in _PASSWORDS):
                found = {name: value for name, value in found.items() if name not in _PASSWORDS}
            found |= table
    return found


def _password(settings: Mapping[str, Any]) -> str | Callable[[], str] | None:
    """The password setting of one source.

    :raises UsageError: the source has more than one
    """
    said = [name for name in _PASSWORDS if name in settings]
    if len(said) > 1:
        raise UsageError(f"one of {' and '.join(said)}, not both")
    if not said:
        return None
    value = settings[said[0]]
    if said[0] == "password":
        return str(value)
    if said[0] == "password_file":
        return lambda: _from_file(Path(value).expanduser())
    return lambda: _from_command(str(value))


def _from_file(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return _first_line(file.readline(_MAX_CONFIG), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the password in {path} cannot be read: {error}") from None


def _from_command(command: str) -> str:
    try:
        words = shlex.split(command)
        done = subprocess.run(  # noqa: S603  # our own user's configuration
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=_COMMAND_SECONDS, check=True
        )
        return _first_line(done.stdout.decode(), words[0])
    except subprocess.CalledProcessError as error:
        raise UsageError(f"the command for the password ended with {error.returncode}") from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"the command for the password took over {_COMMAND_SECONDS:g} seconds") from None
    except (OSError, ValueError, IndexError) as error:
        raise UsageError(f"the command for the password cannot be run: {error}") from None


def _first_line(text: str, where: str) -> str:
    line = text.partition("\n")[0].removesuffix("\r")
    if not line:
        raise UsageError(f"{where} holds no password")
    return line


def _port(value: object) -> int:
    try:
        port = int(str(value))
    except ValueError:
        port = 0
    if not 0 < port < 1 << 16:
        raise UsageError(f"{value!r} is no port")
    return port


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value).expanduser()
