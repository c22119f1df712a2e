"""The configuration is checked once, and nothing in it is accepted silently."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.backends.openssl.backend import backend

from slixmpp_mls.authentication import AcceptAll, NewDeviceRule
from slixmpp_mls.errors import UsageError
from slixmpp_mls.mls.crypto.cipher_suite import CipherSuite
from slixmpp_mls.mls.parameters import DAY, Parameters
from slixmpp_mls.plugin import MLS
from slixmpp_mls.runtime import DeniedMembers, NewDevices, RejoinMode, Settings
from slixmpp_mls.runtime import settings as module
from slixmpp_mls.store import MemoryStore
from slixmpp_mls.store.wrapped_key import StoreSecret


def of(**config: Any) -> Settings:
    return Settings.of({"store": "bot.db", **config})


def test_what_is_not_given_has_its_default() -> None:
    settings = of()
    assert settings == Settings(store="bot.db")
    assert (settings.renew_after, settings.parameters) == (7 * DAY, Parameters())
    assert settings.clock is time.time
    assert Settings.of({**MLS.default_config, "store": "bot.db"}) == settings  # what slixmpp adds itself


def test_post_quantum_first_where_openssl_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = (0xF001, 1) if CipherSuite.is_supported(0xF001) else (1,)
    assert of().cipher_suites == expected
    monkeypatch.setattr(backend, "mlkem_supported", lambda: False)
    assert module.default_suites() == (1,)


def test_each_setting_is_documented_and_checked() -> None:
    names = [each.name for each in fields(Settings)]
    for name in names:
        assert f"\n``{name}``" in (module.__doc__ or "")
    assert list(MLS.default_config) == names
    assert list(module._CHECKS) == names


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("store", Path("bot.db"), Path("bot.db")),
        ("passphrase", "open sesame", "open sesame"),
        ("passphrase", StoreSecret(b"x"), StoreSecret(b"x")),
        ("key_file", Path("bot.key"), Path("bot.key")),
        ("label", "Kitchen ☎", "Kitchen ☎"),
        ("new_devices", "add", NewDevices.ADD),
        ("renew_after", 60, 60),
        ("renew_after", 90.5, 90),
        ("renew_after_messages", 1, 1),
        ("evict_after", "policy", "policy"),
        ("evict_after", 0, 0),
        ("evict_after", None, 0),
        ("evict_after", 30.0 * DAY, 30 * DAY),
        ("nick", "Hecate", "Hecate"),
        ("cipher_suites", [2, 1], (2, 1)),
        ("key_packages", 0, 0),
        ("unverified_devices", "ask", NewDeviceRule.ASK),
        ("introductions", True, True),
        ("denied_members", "hold", DeniedMembers.HOLD),
        ("denied_members", DeniedMembers.REPORT, DeniedMembers.REPORT),
        ("grace", 0, 0),
        ("self_ping", 0.5, 0.5),
        ("rejoin", "by hand", RejoinMode.BY_HAND),
        ("parameters", None, Parameters()),
        ("parameters", Parameters(past_epochs=1), Parameters(past_epochs=1)),
    ],
)
def test_what_is_accepted(name: str, given: object, expected: object) -> None:
    assert getattr(of(**{name: given}), name) == expected


def test_functions_and_services_are_kept_as_they_are() -> None:
    service, store = AcceptAll(), MemoryStore("bot@example")
    for name, value in (
        ("store", store), ("passphrase", lambda: "x"), ("authentication", service), ("authentication", AcceptAll),
        ("accept_invitation", bool), ("allow_url", bool), ("clock", time.monotonic),
    ):  # fmt: skip
        assert getattr(of(**{name: value}), name) is value


@pytest.mark.parametrize(
    ("name", "given", "advice"),
    [
        ("store", "", "path of a file"),
        ("store", 7, "path of a file"),
        ("store", object(), "or a Store"),
        ("passphrase", "", "text that is not empty"),
        ("passphrase", b"octets", "text that is not empty"),
        ("key_file", 3, "path of a file"),
        ("key_file", "", "path of a file"),
        ("label", "", "one line of 1 to 64 characters"),
        ("label", "two\nlines", "one line of 1 to 64 characters"),
        ("label", "x" * 65, "one line of 1 to 64 characters"),
        ("label", 5, "one line of 1 to 64 characters"),
        ("new_devices", "Add", "did you mean 'add'"),
        ("new_devices", None, "'ask', 'add'"),
        ("new_devices", ["add"], "'ask', 'add'"),
        ("renew_after", 0, "1 or more"),
        ("renew_after", 0.5, "1 or more"),
        ("renew_after", -1, "1 or more"),
        ("renew_after", "60", "number of seconds"),
        ("renew_after", True, "number of seconds"),
        ("renew_after", None, "number of seconds"),
        ("renew_after", float("nan"), "number of seconds"),
        ("renew_after", float("inf"), "number of seconds"),
        ("renew_after_messages", 0, "a whole number"),
        ("renew_after_messages", 1.5, "a whole number"),
        ("evict_after", "Policy", '"policy"'),
        ("evict_after", -1, '"policy"'),
        ("evict_after", True, '"policy"'),
        ("nick", "", "resource of a JID"),
        ("nick", 5, "resource of a JID"),
        ("nick", "x" * 1024, "resource of a JID"),
        ("cipher_suites", (), "the preferred one first"),
        ("cipher_suites", 1, "such as (1, 2)"),
        ("cipher_suites", "12", "such as (1, 2)"),
        ("cipher_suites", (1, 1), "each once"),
        ("cipher_suites", (True,), "numbers"),
        ("cipher_suites", (1, 0x7A7A), "0x7A7A is not supported"),
        ("key_packages", -1, "0 or more"),
        ("key_packages", "100", "a whole number"),
        ("authentication", "directory", "an AuthenticationService"),
        ("authentication", 1, "an AuthenticationService"),
        ("unverified_devices", "reject", "'refuse'"),
        ("introductions", 1, "True or False"),
        ("introductions", "no", "True or False"),
        ("denied_members", "delete", "'remove', 'hold', 'report'"),
        ("grace", -1, "0 or more"),
        ("grace", None, "number of seconds"),
        ("accept_invitation", True, "a function"),
        ("allow_url", "https://", "a function"),
        ("self_ping", 0, "more than 0"),
        ("self_ping", "300", "number of seconds"),
        ("rejoin", "by-hand", "did you mean 'by hand'"),
        ("rejoin", None, "'automatic'"),
        ("parameters", {"past_epochs": 1}, "Parameters(...)"),
        ("clock", 1_700_000_000, "a function"),
        ("clock", None, "a function"),
    ],
)
def test_a_wrong_value_is_refused_with_advice(name: str, given: object, advice: str) -> None:
    with pytest.raises(UsageError) as caught:
        of(**{name: given})
    assert f"the setting {name!r} cannot be" in str(caught.value)
    assert advice in str(caught.value)


def test_a_store_is_needed() -> None:
    for config in ({}, {"store": None}):
        with pytest.raises(UsageError, match=r'register_plugin\("mls", \{"store": "bot.db"\}\)'):
            Settings.of(config)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("renew_afer", "did you mean 'renew_after', 'renew_after_messages'?"),
        ("Nick", "did you mean 'nick'"),
        ("ciphersuites", "did you mean 'cipher_suites'"),
        ("zzz", "there are 'accept_invitation', 'allow_url'"),
        ("", "there are"),
    ],
)
def test_an_unknown_name_is_refused_and_close_ones_are_named(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        of(**{name: 1})
    assert f"no setting {name!r}" in str(caught.value)
    assert hint in str(caught.value)


def test_settings_that_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="not both"):
        of(passphrase="x", key_file="y")
    for name in ("passphrase", "key_file"):
        with pytest.raises(UsageError, match="not a Store"):
            Settings.of({"store": MemoryStore("bot@example"), name: "x"})


def test_no_secret_is_shown() -> None:
    assert "open sesame" not in repr(of(passphrase="open sesame"))
    with pytest.raises(UsageError) as caught:
        of(passphrase=b"open sesame")
    assert "sesame" not in str(caught.value)
    assert caught.value.__cause__ is None
