"""The pictures of the concept pages, as SVG: boxes, arrows and lines of text on a grid.

A picture is a list of shapes in grid units; :func:`draw` turns it into a file that is readable on a light and on a
dark page.  They are in the repository, for readers of the pages there: ``python docs/pictures.py`` draws them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

UNIT = 10  # pixels for each grid unit
LINE = 1.7  # grid units from one line of text to the next

STYLE = """
.box { fill: #eef3fb; stroke: #3b5b92; stroke-width: 1.3 }
.secret { fill: #e8f5ea; stroke: #2f7d3b }
.warn { fill: #fdeeea; stroke: #b3402a }
.blank { fill: none; stroke-dasharray: 4 3 }
.line { stroke: #3b5b92; stroke-width: 1.5; fill: none }
.broken { stroke: #b3402a; stroke-dasharray: 5 4 }
text { font: 13px system-ui, sans-serif; fill: #1c2733; text-anchor: middle }
text.left { text-anchor: start }
text.small { font-size: 11px; fill: #51606f }
.paper { fill: #ffffff }
"""


@dataclass(frozen=True)
class Box:
    """A box with lines of text in its middle."""

    x: float
    y: float
    width: float
    height: float
    text: str
    kind: str = ""

    def svg(self) -> str:
        """The shape."""
        lines = self.text.split("\n")
        top = self.y + self.height / 2 - (len(lines) - 1) * LINE / 2 + 0.45
        words = "".join(_text(self.x + self.width / 2, top + LINE * i, line) for i, line in enumerate(lines))
        size = _attributes(x=self.x, y=self.y, width=self.width, height=self.height)
        return f'<rect class="box {self.kind}" rx="6" {size}/>{words}'


@dataclass(frozen=True)
class Arrow:
    """An arrow from one point to another, with a text beside its middle."""

    x1: float
    y1: float
    x2: float
    y2: float
    text: str = ""
    kind: str = ""

    def svg(self) -> str:
        """The shape."""
        ends = _attributes(x1=self.x1, y1=self.y1, x2=self.x2, y2=self.y2)
        head = "" if self.kind == "plain" else ' marker-end="url(#head)"'
        if self.x1 == self.x2:  # upright: the text stands to the right
            words = _text(self.x1 + 1, (self.y1 + self.y2) / 2 + 0.3, self.text, "small left")
        else:
            words = _text((self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2 - 0.9, self.text, "small")
        return f'<line class="line {self.kind}" {ends}{head}/>{words}'


@dataclass(frozen=True)
class Words:
    """A line of text."""

    x: float
    y: float
    text: str
    kind: str = "small"

    def svg(self) -> str:
        """The shape."""
        return _text(self.x, self.y, self.text, self.kind)


Shape = Box | Arrow | Words


def _attributes(**values: float) -> str:
    return " ".join(f'{name}="{value * UNIT:g}"' for name, value in values.items())


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text class="{kind}" {_attributes(x=x, y=y)}>{escape(text)}</text>'


def draw(width: float, height: float, title: str, shapes: Iterable[Shape]) -> str:
    """The SVG of a picture.

    :param width: in grid units, as `height`
    :param title: what it shows, for readers that do not see it
    """
    head = (
        '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0,0 L10,5 L0,10 z" fill="#3b5b92"/></marker>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{-UNIT} 0 {(width + 2) * UNIT:g} {height * UNIT:g}" '
        f'width="{(width + 2) * UNIT:g}" role="img" aria-label={quoteattr(title)}>\n<title>{escape(title)}</title>'
        f"<style>{STYLE}</style><defs>{head}</defs>"
        f'<rect class="paper" x="{-UNIT}" width="100%" height="100%" rx="8"/>\n'
        + "\n".join(shape.svg() for shape in shapes)
        + "\n</svg>\n"
    )


def roles() -> str:
    """Who does what: clients, the accounts' servers, the room."""
    return draw(76, 34, "Clients, the servers of the accounts, and the room", [
        Box(2, 2, 16, 5, "Alice's phone", "secret"), Box(20, 2, 16, 5, "Alice's bot", "secret"),
        Box(54, 2, 18, 5, "Bob's laptop", "secret"),
        Box(6, 14, 26, 7, "Alice's server\nPEP: devices, KeyPackages"),
        Box(50, 14, 26, 7, "Bob's server\nPEP: devices, KeyPackages"),
        Box(24, 26, 32, 6.5, "The room (MUC)\none order of stanzas, and its archive"),
        Arrow(10, 7, 15, 14), Arrow(28, 7, 23, 14), Arrow(63, 7, 63, 14),
        Arrow(32, 17.5, 50, 17.5, "federation"),
        Arrow(19, 21, 32, 26), Arrow(63, 21, 49, 26),
        Words(45, 4.9, "keys are here alone"), Words(64, 29.5, "sees ciphertext"),
    ])  # fmt: skip


def epoch() -> str:
    """The ratchet tree of five members before and after a Commit by the second."""
    shapes: list[Shape] = [Words(19, 2, "epoch 7", ""), Words(58, 2, "epoch 8, after a Commit of B", "")]
    for left, new in ((0, False), (39, True)):
        fresh = "secret" if new else ""
        shapes += [
            Box(left + 15, 4, 8, 3, "root", fresh), Box(left + 6, 10, 8, 3, "AB CD", fresh),
            Box(left + 1.5, 16, 7, 3, "AB", fresh), Box(left + 12, 16, 7, 3, "CD"),
            *(Arrow(*line, "", "plain") for line in (
                (left + 19, 7, left + 10, 10), (left + 19, 7, left + 31, 22), (left + 10, 13, left + 5, 16),
                (left + 10, 13, left + 15.5, 16), (left + 5, 19, left + 2.5, 22), (left + 5, 19, left + 9, 22),
                (left + 15.5, 19, left + 14.5, 22), (left + 15.5, 19, left + 21, 22),
            )),
            *(Box(left + x, 22, 5, 3, name, fresh if name == "B" else "")
              for x, name in ((0, "A"), (6.5, "B"), (12, "C"), (18.5, "D"), (28.5, "E"))),
        ]  # fmt: skip
    shapes += [
        Words(58, 28, "green: new keys, from B's leaf to the root"),
        Words(19, 28, "each node's key is known to the members below it"),
        Arrow(35.2, 12, 39.5, 12),
    ]
    return draw(78, 30, "The ratchet tree before and after a Commit", shapes)


def race() -> str:
    """Two Commits of one epoch: the room's order decides."""
    return draw(72, 30, "Two members commit at once; the first stanza in the room's order counts", [
        Box(2, 2, 12, 3.5, "Alice"), Box(30, 2, 12, 3.5, "the room"), Box(58, 2, 12, 3.5, "Bob"),
        *(Arrow(x, 5.5, x, 28, "", "plain") for x in (8, 36, 64)),
        Arrow(8, 8, 36, 10, "Commit of epoch 7"), Arrow(64, 9, 36, 11, "Commit of epoch 7"),
        Arrow(36, 13, 8, 15, "first: Alice's"), Arrow(36, 13, 64, 15, "first: Alice's"),
        Box(1, 16, 14, 3, "epoch 8", "secret"), Box(57, 16, 14, 3, "epoch 8", "secret"),
        Arrow(36, 19.5, 64, 21, "second: Bob's, void", "broken"),
        Box(52, 22.5, 20, 4, "makes it again\nfor epoch 8"), Arrow(52, 24.5, 36, 26, "Commit of epoch 8"),
    ])  # fmt: skip


def coming_back() -> str:
    """The steps of a client that may have missed something."""
    return draw(78, 31, "How a client comes back", [
        Box(2, 2, 22, 5, "read the archive\nfrom our place"), Box(28, 2, 22, 5, "up to date", "secret"),
        Arrow(24, 4.5, 28, 4.5), Words(39, 8.6, "nothing missing"),
        Box(2, 12, 22, 5, "unsure: ask the members\nsend nothing new"), Arrow(13, 7, 13, 12, "a hole"),
        Arrow(24, 14.5, 28, 14.5), Box(28, 12, 22, 5, "same epoch as the others:\ngo on", "secret"),
        Box(2, 22, 22, 6.5, "prove that we were there:\nexternal Commit with\nthe return key"),
        Arrow(13, 17, 13, 22, "a later epoch, signed"),
        Arrow(24, 25, 28, 25), Box(28, 22, 22, 6.5, "back in the group;\nonly now the old state\nis deleted", "secret"),
        Box(54, 22, 22, 6.5, "no key any more:\nask to be added\n(a member decides)", "warn"),
        Arrow(54, 25, 50, 25),
        Words(65, 5, "An unproved claim of others,"), Words(65, 6.7, "or of the server, deletes nothing."),
    ])  # fmt: skip


def admission() -> str:
    """The five grounds on which a leaf may enter."""
    rows = (
        ("the same client returns", "signature key and return key of its old leaf"),
        ("added by somebody with may_add", "the signature of the Add"),
        ("another device of a member", "an Add by a leaf of the same account"),
        ("... that comes by itself", "a voucher by a leaf of the same account"),
        ("anybody, where the policy says so", "none: a newcomer without rights"),
    )
    shapes: list[Shape] = [Words(18, 2.2, "who comes", ""), Words(58, 2.2, "the proof, inside the group", "")]
    for i, (who, proof) in enumerate(rows):
        y = 4 + i * 5
        shapes += [
            Box(1, y, 34, 3.6, who), Arrow(35, y + 1.8, 41, y + 1.8),
            Box(41, y, 36, 3.6, proof, "warn" if i == 4 else "secret"),
        ]  # fmt: skip
    return draw(78, 30, "Who may enter a group, and by what proof", shapes)


def servers() -> str:
    """An encrypted stanza: what is in clear, what is not."""
    return draw(72, 22, "What a server sees of a message", [
        Box(2, 2, 68, 18, ""), Words(20, 4.6, "<message from=alice to=room type=groupchat>", ""),
        Box(5, 6.5, 62, 11, "", "warn"),
        Words(27, 8.8, "clear: that it is MLS, the group's id, the epoch, the size", ""),
        Box(8, 10.5, 56, 5.5, "encrypted: who signed it, text, files' keys, replies, time\npadded", "secret"),
    ])  # fmt: skip


PICTURES = {
    "roles": roles, "epoch": epoch, "race": race, "coming-back": coming_back, "admission": admission,
    "servers": servers,
}  # fmt: skip


def everything(folder: Path) -> None:
    """Write all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in PICTURES.items():
        (folder / f"{name}.svg").write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    everything(Path(__file__).parent / "concepts" / "pictures")
