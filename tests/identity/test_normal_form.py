"""Addresses as people type them, brought into the one spelling that is compared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slixmpp_mls.identity import check_bare_jid, normal_form, normal_forms


@pytest.mark.parametrize(
    ("typed", "normal"),
    [
        ("Bob@Example.ORG", "bob@example.org"),
        (" bob@example.org.", "bob@example.org"),
        ("bob@xn--mnchen-3ya.de", "bob@münchen.de"),  # RFC 7622 3.2.1
        ("BOB@MÜNCHEN.de", "bob@münchen.de"),
        ("Stra\u00dfe@example.org", "strasse@example.org"),  # Nodeprep, RFC 6122 A
        ("bob@[::1]", "bob@[::1]"),
        ("Bob@example.org/96fee99052b73d57", "bob@example.org/96fee99052b73d57"),
    ],
)
def test_spellings(typed: str, normal: str) -> None:
    assert normal_form(typed) == normal


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "bob",
        "@example.org",
        "bob@",
        "bob smith@example.org",
        "a@b@c",
        "a\0@example.org",
        "a@b..c",
        "a@b/",
        "a@b/c d",
    ],
)
def test_impossible_ones(typed: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        normal_form(typed)
    assert not typed or typed not in str(caught.value)
    assert normal_forms(["Bob@b", typed, "bob@b"]) == (["bob@b"], {typed: f"no address: {caught.value}"})


@given(st.text(max_size=40))
def test_what_comes_out_is_in_normal_form(text: str) -> None:
    for typed in (text, f"{text}@example.org", f"bob@{text}"):
        try:
            normal = normal_form(typed)
        except ValueError:
            continue
        check_bare_jid(normal.partition("/")[0])
        assert normal_form(normal) == normal
