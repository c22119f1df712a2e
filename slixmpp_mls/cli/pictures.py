"""Pictures of a group: its ratchet tree (RFC 9420 4.1, 7.1) and its epochs, for the terminal and as SVG.

In the tree, a filled node has a key that all members below it share, an empty one is blank: a Commit must encrypt to
its children instead.  Members that are *unmerged* at a node do not know its key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lxml import etree
from rich.console import Group as Lines
from rich.text import Text
from rich.tree import Tree

from ..client.storage.epoch_log import EpochRecord
from ..errors import InvalidError
from ..identity import ClientIdentity
from ..mls.structures.leaf_node import LeafNode
from ..mls.structures.parent_node import AnyNode, ParentNode
from ..mls.tree.tree_math import LeafIndex, NodeIndex, is_leaf, leaf_of, left, level, node_of, right, root
from .terminal import clean, iso

__all__ = ["Picture", "Seat", "age", "sentence", "svg", "timeline", "tree"]

MOST_LEAVES: Final = 512
"""Leaves of a tree that is drawn; a larger one is cut."""
_SVG: Final = "http://www.w3.org/2000/svg"
_COLUMN, _ROW, _TOP, _LABEL, _LINE = 46, 56, 40, 190, 18


@dataclass(frozen=True, slots=True)
class Seat:
    """What is known of a member beside its leaf.

    :ivar renewed: when it got its keys, seconds since the Unix epoch; None if that is not known
    :ivar level: of trust, in words
    :ivar own: whether it is this device
    """

    renewed: int | None = None
    level: str = ""
    own: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn.

    :ivar nodes: by node index (RFC 9420 appendix C); None for blank ones
    :ivar seats: by leaf index
    :ivar now: seconds since the Unix epoch
    """

    nodes: Sequence[AnyNode | None]
    seats: Mapping[int, Seat]
    now: int

    @property
    def leaves(self) -> int:
        """Leaves that are drawn, a power of two."""
        count = 1
        while count < min(MOST_LEAVES, (len(self.nodes) + 1) // 2):
            count *= 2
        return count

    def node(self, place: NodeIndex) -> AnyNode | None:
        """The node at a place."""
        return self.nodes[place] if place < len(self.nodes) else None

    def is_empty(self, place: NodeIndex) -> bool:
        """Whether a node and all below it are blank."""
        first, last = place - (1 << level(place)) + 1, place + (1 << level(place)) - 1
        return not any(node is not None for node in self.nodes[first : last + 1])

    def words(self, place: NodeIndex) -> tuple[str, str]:
        """A node in words: what it is, and remarks."""
        node = self.node(place)
        if isinstance(node, LeafNode):
            index = leaf_of(place)
            seat = self.seats.get(index, Seat())
            remarks = [seat.level] if seat.level else []
            remarks += [] if seat.renewed is None else [f"keys {age(self.now - seat.renewed)} old"]
            remarks += ["this device"] if seat.own else []
            return f"{index} {_name(node)}", ", ".join(remarks)
        if isinstance(node, ParentNode):
            unmerged = ", ".join(map(str, node.unmerged_leaves))
            return "shared key", f"unmerged: {unmerged}" if unmerged else ""
        return (f"{leaf_of(place)} blank" if is_leaf(place) else "blank"), ""


def _name(leaf: LeafNode) -> str:
    try:
        return clean(str(ClientIdentity.from_leaf(leaf)))
    except InvalidError:
        return "a credential of another kind"


def age(seconds: int) -> str:
    """A span of time in words."""
    for unit, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit:
            count = seconds // unit
            return f"{count} {name}{'' if count == 1 else 's'}"
    return "less than a minute"


def tree(picture: Picture, title: str) -> Tree:
    """The tree, for a terminal."""
    drawing = Tree(Text(title, "bold"))

    def draw(place: NodeIndex, under: Tree) -> None:
        name, remarks = picture.words(place)
        blank = picture.node(place) is None
        text = Text.assemble(
            ("\u25cb " if blank else "\u25cf ", "dim" if blank else "green"), (name, "dim" if blank else "")
        )
        if remarks:
            text.append(f"  {remarks}", "dim")
        if picture.is_empty(place) and not is_leaf(place):
            text.append(f" (leaves {_below(place)})", "dim")
            under.add(text)
            return
        branch = under.add(text)
        if not is_leaf(place):
            draw(left(place), branch)
            draw(right(place), branch)

    draw(root(picture.leaves), drawing)
    if (len(picture.nodes) + 1) // 2 > MOST_LEAVES:
        drawing.add(Text(f"... and more: only {MOST_LEAVES} leaves are drawn", "yellow"))
    return drawing


def _below(place: NodeIndex) -> str:
    span = (1 << level(place)) - 1
    return f"{leaf_of(NodeIndex(place - span))} to {leaf_of(NodeIndex(place + span))}"


def sentence(record: EpochRecord) -> str:
    """What the Commit did that began an epoch."""

    def names(clients: Sequence[bytes], count: int) -> str:
        shown = [clean(client.decode(errors="replace")) for client in clients]
        more = count - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more > 0 else "")

    parts = []
    if record.came_count:
        parts.append(f"added {names(record.came, record.came_count)}")
    if record.went_count:
        parts.append(f"removed {names(record.went, record.went_count)}")
    if record.rules:
        parts.append("changed the rules")
    return "; ".join(parts) or "renewed keys"


def timeline(records: Sequence[EpochRecord]) -> Lines:
    """The epochs, for a terminal, the oldest first."""
    lines = []
    for record in records:
        by = clean(record.by.decode(errors="replace"))
        when = (iso(record.when) or "").replace("T", " ").removesuffix("Z")[:16]
        lines.append(Text.assemble(("\u25cf ", "green"), (f"{record.epoch:>5}", "bold"), (f"  {when}  ", "dim"),
                                   f"{by} ", (sentence(record), "")))  # fmt: skip
    return Lines(*lines) if lines else Lines(Text("nothing is known of earlier epochs", "dim"))


# --- SVG -------------------------------------------------------------------------------------------


def svg(title: str, picture: Picture, records: Sequence[EpochRecord] = ()) -> str:
    """The tree, and below it the epochs, as an SVG document."""
    leaves = picture.leaves
    height = level(root(leaves))
    tree_bottom = _TOP + height * _ROW + _LABEL
    width = max(640, leaves * _COLUMN + 40)
    document = etree.Element(
        f"{{{_SVG}}}svg",
        {"width": str(width), "height": str(tree_bottom + 60 + _LINE * len(records)), "font-family": "sans-serif",
         "font-size": "12"},
        nsmap={None: _SVG},
    )  # fmt: skip
    _add(document, "rect", width="100%", height="100%", fill="white")
    _add(document, "text", title, x="20", y="22", **{"font-size": "15", "font-weight": "bold"})

    def at(place: NodeIndex) -> tuple[float, float]:
        return 20 + (place / 2 + 0.5) * _COLUMN, _TOP + 10 + (height - level(place)) * _ROW

    for place in _places(picture, root(leaves)):
        x, y = at(place)
        if not is_leaf(place) and not picture.is_empty(place):
            for child in (left(place), right(place)):
                to = at(child)
                _add(document, "line", x1=f"{x}", y1=f"{y}", x2=f"{to[0]}", y2=f"{to[1]}", stroke="#999")
    for place in _places(picture, root(leaves)):
        _draw_node(document, picture, place, *at(place))
    for number, record in enumerate(records):
        y = tree_bottom + 30 + number * _LINE
        _add(document, "circle", cx="30", cy=f"{y - 4}", r="4", fill="#2a7")
        if number + 1 < len(records):
            _add(document, "line", x1="30", y1=f"{y}", x2="30", y2=f"{y + _LINE - 8}", stroke="#2a7")
        when = (iso(record.when) or "").replace("T", " ")[:16]
        text = f"epoch {record.epoch}  {when}  {clean(record.by.decode(errors='replace'))} {sentence(record)}"
        _add(document, "text", text, x="44", y=f"{y}")
    return str(etree.tostring(document, encoding="unicode", pretty_print=True))


def _places(picture: Picture, place: NodeIndex) -> Iterator[NodeIndex]:
    yield place
    if not is_leaf(place) and not picture.is_empty(place):
        yield from _places(picture, left(place))
        yield from _places(picture, right(place))


def _draw_node(document: etree._Element, picture: Picture, place: NodeIndex, x: float, y: float) -> None:
    node = picture.node(place)
    name, remarks = picture.words(place)
    own = is_leaf(place) and picture.seats.get(leaf_of(place), Seat()).own
    fill = "white" if node is None else "#27c" if own else "#2a7"
    dashed = {"stroke-dasharray": "3 2"} if node is None else {}
    circle = _add(document, "circle", cx=f"{x}", cy=f"{y}", r="8", fill=fill, stroke="#444", **dashed)
    _add(circle, "title", f"{name} {remarks}".strip())
    if is_leaf(place):
        place_of_text = {"x": f"{x}", "y": f"{y + 18}", "transform": f"rotate(60 {x} {y + 18})"}
        label = _add(document, "text", name, **place_of_text, fill="#999" if node is None else "black")
        if remarks:
            _add(label, "tspan", f"  {remarks}", fill="#777")
    elif remarks:
        _add(document, "text", remarks, x=f"{x + 12}", y=f"{y + 4}", fill="#a50")


def _add(parent: etree._Element, name: str, text: str | None = None, **attributes: str) -> etree._Element:
    element = etree.SubElement(parent, f"{{{_SVG}}}{name}", attributes)
    element.text = text
    return element


def nodes_of(leaf_count: int, members: Mapping[LeafIndex, LeafNode], parents: Mapping[NodeIndex, ParentNode]
             ) -> list[AnyNode | None]:  # fmt: skip
    """The nodes of a tree by their index."""
    nodes: list[AnyNode | None] = [None] * (2 * leaf_count - 1)
    for index, leaf in members.items():
        nodes[node_of(index)] = leaf
    for place, parent in parents.items():
        nodes[place] = parent
    return nodes
