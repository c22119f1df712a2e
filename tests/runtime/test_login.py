"""Where a program finds out with which account it logs in: what it is given, the environment, a file."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from slixmpp_mls.errors import UsageError
from slixmpp_mls.plugin import MLS
from slixmpp_mls.runtime.login import _VARIABLES, Login, config_file, default_store


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*_VARIABLES.values(), "MLS_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def configure(text: str, mode: int = 0o600) -> Path:
    path = config_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def password(login: Login) -> Any:
    return login.password() if callable(login.password) else login.password


def test_the_order_of_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    configure(
        'jid = "ci@Example.ORG"\npassword = "of the file"\nhost = "file.example"\nport = 5299\nstore = "~/f.db"\n'
    )
    login = Login.load()
    assert (login.jid, password(login), login.host, login.port) == (
        "ci@example.org",
        "of the file",
        "file.example",
        5299,
    )
    assert login.store == tmp_path / "f.db"
    monkeypatch.setenv("XMPP_PASSWORD", "of the environment")
    monkeypatch.setenv("XMPP_HOST", "env.example")
    monkeypatch.setenv("MLS_STORE", str(tmp_path / "env.db"))
    login = Login.load()
    assert (password(login), login.host, login.port) == ("of the environment", "env.example", 5299)
    assert login.store == tmp_path / "env.db"
    login = Login.load(password="given", host="given.example", port=1, store=tmp_path / "given.db", ca=None)
    assert (password(login), login.host, login.port) == ("given", "given.example", 1)
    assert login.store == tmp_path / "given.db"


def test_what_belongs_to_one_account_is_not_used_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(
        'jid = "ci@example.org"\npassword = "of ci"\nstore = "ci.db"\nhost = "shared.example"\n'
        '[accounts."alice@example.org"]\npassword_command = "echo of alice"\nport = 5230\n'
        '[accounts."ci@example.org"]\nkey_file = "ci.key"\n'
    )
    alice = Login.load("alice@example.org")
    assert (password(alice), alice.host, alice.port) == ("of alice", "shared.example", 5230)
    assert alice.store == default_store("alice@example.org")
    ci = Login.load()
    assert (password(ci), ci.store, ci.key_file) == ("of ci", Path("ci.db"), Path("ci.key"))
    bob = Login.load("bob@example.org")
    assert (bob.password, bob.host, bob.store) == (None, "shared.example", default_store("bob@example.org"))
    monkeypatch.setenv("XMPP_JID", "alice@example.org")
    assert Login.load().jid == "alice@example.org"
    assert Login.load("bob@example.org").jid == "bob@example.org"


def test_passwords_from_files_and_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("fair is foul\nsecond line\n")
    monkeypatch.setenv("XMPP_JID", "ci@example.org")
    monkeypatch.setenv("XMPP_PASSWORD_FILE", "~/secret")
    assert password(Login.load()) == "fair is foul"
    monkeypatch.delenv("XMPP_PASSWORD_FILE")
    program = f"{sys.executable} -c \"print('from a command')\""
    monkeypatch.setenv("XMPP_PASSWORD_COMMAND", program)
    assert password(Login.load()) == "from a command"
    for command, problem in (
        ("false", "ended with 1"),
        ("no-such-program-here", "cannot be run"),
        ("true", "no password"),
        ("unclosed '", "cannot be run"),
    ):
        with pytest.raises(UsageError, match=problem):
            password(Login.load(password_command=command))
    for content, problem in (("", "no password"), ("\n", "no password")):
        secret.write_text(content)
        with pytest.raises(UsageError, match=problem):
            password(Login.load(password_file=str(secret)))
    with pytest.raises(UsageError, match="cannot be read"):
        password(Login.load(password_file=str(tmp_path / "none")))
    with pytest.raises(UsageError, match="not both"):
        Login.load(password="x", password_file="y")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("jid = ", "no TOML"),
        ('pasword = "x"', "no setting 'pasword'"),
        ("port = 'x'", "no port"),
        ("port = 70000", "no port"),
        ("port = true", "port is a text or a number"),
        ("jid = 5", "jid is a text"),
        ('jid = "room"', "no address"),
        ("accounts = 1", "tables"),
        ('[accounts."a@b.example"]\njid = "x@y.example"', "no setting 'jid'"),
        ('[accounts."nobody"]\nhost = "x"', "no address"),
    ],
)
def test_files_that_say_something_wrong(text: str, problem: str) -> None:
    configure(text)
    with pytest.raises(UsageError, match=problem):
        Login.load(None if "jid" in text and "accounts" not in text else "ci@example.org")


def test_a_password_that_others_can_read(tmp_path: Path) -> None:
    path = configure('jid = "ci@example.org"\npassword = "x"\n', 0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        Login.load()
    path.chmod(0o600)
    assert password(Login.load()) == "x"
    configure('jid = "ci@example.org"\n', 0o644)  # without one, anybody may
    assert Login.load().password is None


def test_nobody_says_anything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="which account"):
        Login.load()
    login = Login.load("ci@example.org")
    with pytest.raises(UsageError, match="no password"):
        login.client()
    assert login.client(ask=lambda question: "typed").password == "typed"
    with pytest.raises(UsageError, match="no setting 'passwort'"):
        Login.load("ci@example.org", passwort="x")
    with pytest.raises(UsageError, match="no address"):
        Login.load("example.org")
    with pytest.raises(UsageError, match="no certificates"):
        Login.load("ci@example.org", password="x", ca=tmp_path / "none.pem").client()


def test_a_bot_has_the_plugin_and_a_store_for_us_alone(tmp_path: Path) -> None:
    login = Login.load("ci@example.org", password="x")
    bot = login.bot(label="CI", key_packages=2)
    mls = MLS.of(bot)
    assert mls.settings.store == tmp_path / "data" / "slixmpp-mls" / "ci@example.org.db"
    assert (mls.settings.label, mls.settings.key_packages) == ("CI", 2)
    assert stat.S_IMODE(os.stat(tmp_path / "data" / "slixmpp-mls").st_mode) == 0o700
    with pytest.raises(UsageError, match="no setting 'lable'"):
        login.bot(lable="CI")
    with pytest.raises(UsageError, match="not registered"):
        MLS.of(login.client())


def test_nothing_secret_in_what_may_be_logged() -> None:
    assert "hush" not in repr(Login.load("ci@example.org", password="hush"))
