"""references.json: messages about messages, and to which one each belongs, if to any."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import quoteattr

__all__ = ["references"]

ALICE, BOB, CAROL = "alice@a.example", "bob@b.example", "carol@c.example"
SAID = [(ALICE, "a1"), (BOB, "b1"), (CAROL, "c1"), (ALICE, "same"), (BOB, "same"), (BOB, "b1")]
NS = "urn:xmpp:mls:0"
SENDER = f"xmlns:mls='{NS}' mls:sender="
BODY = "<body xmlns='jabber:client'>Fair is foul</body>"


def reactions(identifier: str, sender: str | None = None, *emojis: str) -> str:
    inside = "".join(f"<reaction>{emoji}</reaction>" for emoji in emojis or ("👍",))
    return _element("reactions", "urn:xmpp:reactions:0", identifier, sender, inside)


def replace(identifier: str) -> str:
    return _element("replace", "urn:xmpp:message-correct:0", identifier) + BODY


def retract(identifier: str, sender: str | None = None) -> str:
    return _element("retract", "urn:xmpp:message-retract:1", identifier, sender)


def displayed(identifier: str, sender: str | None = None) -> str:
    return _element("displayed", "urn:xmpp:chat-markers:0", identifier, sender)


def reply(identifier: str, to: str | None = None) -> str:
    attribute = "" if to is None else f" to={quoteattr(to)}"
    return f"<reply xmlns='urn:xmpp:reply:0' id={quoteattr(identifier)}{attribute}/>{BODY}"


def _element(name: str, namespace: str, identifier: str, sender: str | None = None, inside: str = "") -> str:
    by = "" if sender is None else f" {SENDER}{quoteattr(sender)}"
    return f"<{name} xmlns='{namespace}' id={quoteattr(identifier)}{by}>{inside}</{name}>"


def about(sender: str, identifier: str, *, known: bool = True) -> dict[str, Any]:
    return {"sender": sender, "id": identifier, "known": known}


def unknown(identifier: str, sender: str | None = None) -> dict[str, Any]:
    return {"sender": sender, "id": identifier, "known": False}


Case = tuple[str, str, str, dict[str, Any] | None]

CASES: tuple[Case, ...] = (
    ("a reaction that names the sender", CAROL, reactions("b1", BOB), about(BOB, "b1")),
    ("a reaction that names nobody, to an id that one account has used", CAROL, reactions("b1"), about(BOB, "b1")),
    ("a reaction that names nobody, to an id that two have used", CAROL, reactions("same"), None),
    ("a reaction to one of these", CAROL, reactions("same", ALICE), about(ALICE, "same")),
    ("a reaction to the other of these", CAROL, reactions("same", BOB), about(BOB, "same")),
    ("a reaction that names who has not used the id", CAROL, reactions("b1", ALICE), None),
    ("a reaction that names an occupant", CAROL, reactions("b1", "coven@rooms.example/bob"), about(BOB, "b1")),
    ("a reaction to what is not remembered", CAROL, reactions("old", BOB), unknown("old", BOB)),
    ("a reaction to what is not remembered, of nobody", CAROL, reactions("old"), unknown("old")),
    ("16 reactions", CAROL, reactions("b1", BOB, *(f"{number:x}" for number in range(16))), about(BOB, "b1")),
    ("17 reactions", CAROL, reactions("b1", BOB, *(f"{number:x}" for number in range(17))), None),
    ("a reaction of 64 octets", CAROL, reactions("b1", BOB, "x" * 64), about(BOB, "b1")),
    ("a reaction of 65 octets", CAROL, reactions("b1", BOB, "x" * 65), None),
    ("a reaction without an id", CAROL, reactions("", BOB), None),
    ("a correction by the author", BOB, replace("b1"), about(BOB, "b1")),
    ("a correction by somebody else", CAROL, replace("b1"), None),
    ("a correction by an administrator", ALICE, replace("b1"), None),
    ("a correction of one's own under an id that two have used", ALICE, replace("same"), about(ALICE, "same")),
    ("a correction of what is not remembered", CAROL, replace("old"), unknown("old", CAROL)),
    ("a retraction by the author", BOB, retract("b1", BOB), about(BOB, "b1")),
    ("a retraction by the author, who names nobody", BOB, retract("b1"), about(BOB, "b1")),
    ("a retraction by an administrator", ALICE, retract("b1", BOB), about(BOB, "b1")),
    ("a retraction by an administrator, who names nobody", ALICE, retract("b1"), None),
    ("a retraction by somebody else", CAROL, retract("b1", BOB), None),
    ("a retraction by somebody else, who names nobody", CAROL, retract("b1"), None),
    ("a retraction of what is not remembered, by its author", CAROL, retract("old", CAROL), unknown("old", CAROL)),
    ("a retraction of what is not remembered, by somebody else", CAROL, retract("old", BOB), None),
    ("a reply", CAROL, reply("b1", BOB), about(BOB, "b1")),
    ("a reply that names an occupant", CAROL, reply("b1", "coven@rooms.example/bob"), about(BOB, "b1")),
    ("a reply that names who has not used the id: its text counts", CAROL, reply("b1", ALICE), unknown("b1")),
    ("a marker", CAROL, displayed("a1", ALICE), about(ALICE, "a1")),
    ("two things about messages in one", BOB, retract("b1", BOB) + reactions("a1", ALICE), None),
    ("64 mentions", CAROL, "<mention xmlns='urn:xmpp:mentions:0' jid='bob@b.example'/>" * 64 + reactions("b1", BOB),
     about(BOB, "b1")),
    ("65 mentions", CAROL, "<mention xmlns='urn:xmpp:mentions:0' jid='bob@b.example'/>" * 65 + reactions("b1", BOB),
     None),
)  # fmt: skip


def references() -> dict[str, Any]:
    return {
        "members": [ALICE, BOB, CAROL],
        "administrators": [ALICE],
        "said": [{"sender": sender, "id": identifier} for sender, identifier in SAID],
        "cases": [
            {"name": name, "sender": sender, "content": content, "about": found}
            for name, sender, content, found in CASES
        ],
    }
