#!/usr/bin/env python3
"""Check the documents of the specification and render each as one HTML page, offline.

``mls.xml`` is the core; the others build on it.  A link from one to another names its page, which is what it is
in the XSF's inbox, too.  The documents are in the XSF's format and stand on their own in its repository, where its
DTD and entities are found beside them.  Here they are not copied: entities come from ``mls.ent``, and the rules are
those below.  Who has a copy of the XSF's files (``git clone https://github.com/xsf/xeps``) passes its folder
with ``--xsf``, or in ``XSF_XEPS``; then their DTD and their entities are used as well.

What is checked: the rules of XEP-0001 as the XSF's own script has them (header, status, revisions, stylesheet,
legal notice), the sections that the template of 2026 requires, which element may stand where, anchors and
links inside and between the documents, and that every example is XML.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from lxml import etree

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE / "mls.xml"
DOCUMENTS = (
    DOCUMENT,
    HERE / "mls-policy.xml",
    HERE / "mls-recovery.xml",
    HERE / "mls-operations.xml",
    HERE / "mls-trust.xml",
    HERE / "mls-structures.xml",
)

STATUSES = {
    "ProtoXEP", "Experimental", "Proposed", "Draft", "Stable", "Active", "Final", "Retracted", "Obsolete", "Deferred",
    "Rejected", "Deprecated",
}  # fmt: skip
TYPES = {"Historical", "Humorous", "Informational", "Organizational", "Procedural", "Standards Track"}
APPROVERS = {"Board", "Council", "Editor"}

# Children of the header, in order; how often: 1, ? (0 or 1), + (1 or more), * (any number).
HEADER = (
    "title", "abstract", "legal", "number", "status", "lastcall*", "interim*", "type", "sig", "approver*",
    "dependencies", "supersedes", "supersededby", "shortname", "tags?", "schemaloc*", "registry?", "discuss?",
    "expires?", "author+", "revision+", "councilnote?",
)  # fmt: skip
AUTHOR = ("firstname", "surname", "authornote?", "org?", "email?", "jid?", "uri?")
REVISION = ("version", "date", "initials", "remark")

# The sections that a specification of a protocol must have, and those strongly recommended.
SECTIONS = (
    "Introduction", "Requirements", "Use Cases", "Accessibility Considerations", "Security Considerations",
    "Privacy Considerations", "IANA Considerations", "XMPP Registrar Considerations", "Design Considerations",
    "XML Schema",
)  # fmt: skip

_BLOCKS = {"p", "div", "example", "code", "cve", "ul", "ol", "dl", "table"}
_INLINE = {"link", "note", "tt", "em", "strong", "cite", "span"}
_ITEM = _INLINE | {"p", "code", "example", "ul", "ol"}
ALLOWED: dict[str, set[str]] = {
    "xep": {"header", "section1"},
    **{f"section{level}": _BLOCKS | {f"section{level + 1}"} for level in range(1, 5)},
    "section5": _BLOCKS,
    "div": (_BLOCKS - {"cve"}) | {"blockquote"},
    "p": _INLINE | {"br", "img", "dfn", "acronym"},
    "ul": {"li"}, "ol": {"li"}, "li": _ITEM, "dl": {"di"}, "di": {"dt", "dd"}, "dt": set(), "dd": _ITEM,
    "table": {"tr"}, "tr": {"th", "td"}, "th": set(), "td": _ITEM - {"example"},
    "example": set(), "code": {"span", "em", "strong"}, "cve": set(), "br": set(), "img": set(), "blockquote": set(),
    "link": {"cite"}, "note": _INLINE | {"dfn"}, "tt": {"link", "em", "strong"}, "dfn": set(), "cite": set(),
    "em": {"link", "tt", "strong", "span", "note"}, "strong": {"link", "tt", "em", "span", "note"},
    "span": {"link", "tt", "dfn", "em", "strong"}, "acronym": set(),
}  # fmt: skip


class _Files(etree.Resolver):
    """Finds the XSF's files where they are, or what stands for them here."""

    def __init__(self, xsf: Path | None) -> None:
        super().__init__()
        self._xsf = xsf

    def resolve(self, url: str | None, public: str | None, context: Any) -> Any:
        name = (url or "").rsplit("/", 1)[-1]
        if name == "xep.ent":
            return self.resolve_filename(str(HERE / "mls.ent" if self._xsf is None else self._xsf / name), context)
        if name == "xep.dtd":
            if self._xsf is None:
                return self.resolve_empty(context)
            return self.resolve_filename(str(self._xsf / name), context)
        return None


def load(path: Path = DOCUMENT, xsf: Path | None = None) -> etree._ElementTree:
    """The document with its entities replaced.

    :param xsf: folder with the XSF's ``xep.dtd`` and ``xep.ent``
    :raises etree.XMLSyntaxError: it is not well-formed, or an entity is not known
    """
    parser = etree.XMLParser(load_dtd=True, no_network=True, resolve_entities=True, huge_tree=True)
    parser.resolvers.add(_Files(xsf))
    return etree.parse(str(path), parser)


# --- checking ----------------------------------------------------------------------------------


def problems(document: etree._ElementTree, path: Path, xsf: Path | None = None) -> list[str]:
    """Everything that is wrong with the document, as lines for people; empty if nothing is."""
    source = path.read_text(encoding="utf-8")
    found = [*_header(document, path.name, source), *_sections(document), *_structure(document)]
    found += [*_links(document), *_examples(document)]
    if xsf is not None:
        dtd = etree.DTD(str(xsf / "xep.dtd"))
        if not dtd.validate(document.getroot()):
            found += [f"DTD: line {entry.line}: {entry.message}" for entry in dtd.error_log]
    return found


def _name(element: etree._Element) -> str:
    return str(element.tag)


def _text(document: etree._ElementTree, path: str) -> str:
    return (document.findtext(path) or "").strip()


def _sequence(element: etree._Element, model: Iterable[str]) -> Iterator[str]:
    """How an element's children differ from a sequence."""
    names = [str(child.tag) for child in element if isinstance(child.tag, str)]
    at = 0
    for part in model:
        name, times = part.rstrip("?*+"), part[-1]
        count = 0
        while at < len(names) and names[at] == name:
            at, count = at + 1, count + 1
        if count == 0 and times not in "?*":
            yield f"<{_name(element)}> lacks <{name}>, or has it in the wrong place"
        if count > 1 and times not in "*+":
            yield f"<{_name(element)}> has <{name}> more than once"
    if at < len(names):
        yield f"<{_name(element)}> has <{names[at]}> in the wrong place"


def _header(document: etree._ElementTree, name: str, source: str) -> Iterator[str]:
    header = document.find("header")
    if header is None:
        yield "no <header>"
        return
    yield from _sequence(header, HEADER)
    for author in header.iterfind("author"):
        yield from _sequence(author, AUTHOR)
        if not any(author.findtext(address) for address in ("email", "jid", "uri")):
            yield "an author without <email>, <jid> or <uri>, of which people need mail address and JID (XEP-0001)"
    for revision in header.iterfind("revision"):
        yield from _sequence(revision, REVISION)
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", _text_of(revision, "date")):
            yield f"the revision {_text_of(revision, 'version')} has no date as YYYY-MM-DD"
    number, status, kind = (_text(document, f"header/{part}") for part in ("number", "status", "type"))
    approver = _text(document, "header/approver")
    if re.fullmatch(r"xep-\d{4}\.xml", name):
        if name != f"xep-{number}.xml":
            yield f"the file {name} holds number {number}"
    else:
        if name.startswith("xep-") and name[4:5].isdigit():
            yield "the file's name must not begin like that of a numbered XEP"
        if status != "ProtoXEP":
            yield f"the status is {status or 'missing'}, not ProtoXEP"
        if number not in ("xxxx", "XXXX"):
            yield f"the number is {number or 'missing'}, not xxxx"
    if status not in STATUSES:
        yield f"{status!r} is no status of XEP-0001"
    if kind not in TYPES:
        yield f"{kind!r} is no type of XEP-0001"
    if approver not in APPROVERS:
        yield f"{approver!r} does not approve XEPs"
    if approver == "Board" and kind == "Standards Track":
        yield "the Board does not approve Standards Track XEPs"
    if (approver == "Editor") != (kind == "Humorous"):
        yield "humorous XEPs, and no others, are approved by the Editor"
    versions = [_version(_text_of(revision, "version")) for revision in header.iterfind("revision")]
    if any(newer <= older for newer, older in pairwise(versions)):
        yield "the revisions are not in descending order"
    if not re.search(r"<\?xml-stylesheet[^?]*href=['\"]xep\.xsl['\"]", source):
        yield "the stylesheet xep.xsl is not named"
    if "&LEGALNOTICE;" not in source:
        yield "the legal notice is not there as &LEGALNOTICE;"


def _text_of(element: etree._Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def _sections(document: etree._ElementTree) -> Iterator[str]:
    topics = [section.get("topic", "") for section in document.iterfind("section1")]
    for wanted in SECTIONS:
        if wanted not in topics:
            yield f"no section {wanted!r}"
    for element in document.iter("section1", "section2", "section3", "section4", "section5"):
        if not element.get("topic") or not element.get("anchor"):
            yield f"line {element.sourceline}: a section without topic or anchor"
        if len(element) == 0:
            yield f"line {element.sourceline}: the section {element.get('topic')!r} is empty"


def _structure(document: etree._ElementTree) -> Iterator[str]:
    """What XSF's DTD says of sections and text, as far as this document is concerned."""
    for element in document.getroot().iter(etree.Element):
        parent = element.getparent()
        if parent is None or parent.tag in ("header",) or any(up.tag == "header" for up in element.iterancestors()):
            continue
        if element.tag not in ALLOWED.get(str(parent.tag), set()) and parent.tag in ALLOWED:
            yield f"line {element.sourceline}: <{_name(element)}> in <{_name(parent)}>"
        elif str(element.tag) not in ALLOWED and element.tag != "header":
            yield f"line {element.sourceline}: there is no element <{_name(element)}>"


def _links(document: etree._ElementTree) -> Iterator[str]:
    anchors = Counter(element.get("anchor") for element in document.iter(etree.Element) if element.get("anchor"))
    for anchor, count in anchors.items():
        if count > 1:
            yield f"the anchor {anchor!r} is there {count} times"
    for link in document.iter("link"):
        url = link.get("url", "")
        page, _, anchor = url.partition("#")
        if not url or (not page and anchor not in anchors):
            yield f"line {link.sourceline}: a link to {url or 'nothing'}"
        elif page in (pages := {f"{path.stem}.html": path for path in DOCUMENTS}):
            if anchor and anchor not in _anchors(pages[page]):
                yield f"line {link.sourceline}: a link to {url}, which is not there"
        elif page and "://" not in page and not page.startswith(("mailto:", "xmpp:")):
            yield f"line {link.sourceline}: a link to {page}, which is no document of these"


@cache
def _anchors(path: Path) -> frozenset[str]:
    return frozenset(element.get("anchor", "") for element in load(path).iter(etree.Element))


def examples(document: etree._ElementTree) -> list[tuple[str, str]]:
    """Caption and text of all examples, in order."""
    return [(element.get("caption", ""), element.text or "") for element in document.iter("example")]


def _examples(document: etree._ElementTree) -> Iterator[str]:
    for caption, text in examples(document):
        if not caption:
            yield "an example without caption"
        try:
            etree.fromstring(text.strip(), etree.XMLParser(resolve_entities=False, no_network=True))
        except etree.XMLSyntaxError as error:
            yield f"example {caption!r}: {error}"
        if "\t" in text or re.search(r"=\"", text):
            yield f"example {caption!r}: tabulators or double quotes (XEP-0143)"
        if any(len(line) > 110 for line in text.splitlines()):
            yield f"example {caption!r}: a line of more than 110 characters (XEP-0143)"


# --- rendering ---------------------------------------------------------------------------------

STYLE = """
:root { --ink: #1d2330; --soft: #5b6472; --paper: #fff; --tint: #f5f6f8; --line: #d9dde3; --link: #1a56a6;
  --name: #7a2a8a; --key: #8a5a00; --value: #1d6b3a; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe3ea; --soft: #98a2b3; --paper: #14171d; --tint: #1c2028;
  --line: #323946; --link: #82b4ff; --name: #d69ae6; --key: #e0b56a; --value: #8fd0a5; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body { margin: 0; color: var(--ink); background: var(--paper); font: 16px/1.6 system-ui, sans-serif; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: 2px; }
.page { display: grid; grid-template-columns: 19rem minmax(0, 54rem); gap: 3rem; padding: 0 1.5rem; }
nav { position: sticky; top: 0; height: 100vh; overflow: auto; padding: 1.5rem 0; font-size: .86rem; line-height: 1.4; }
nav ol { list-style: none; margin: 0; padding: 0; } nav ol ol { padding-left: 1rem; }
nav li { margin: .25rem 0; }
nav a { color: inherit; text-decoration: none; } nav a:hover { text-decoration: underline; }
nav .number, h2 .number, h3 .number, h4 .number { color: var(--soft); margin-right: .4em; }
main { padding: 1.5rem 0 6rem; min-width: 0; }
h1 { font-size: 2rem; line-height: 1.2; margin: .3rem 0 .6rem; }
h2 { font-size: 1.5rem; margin: 3rem 0 .8rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.18rem; margin: 2.2rem 0 .6rem; } h4 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
.status { color: var(--soft); font-weight: 600; letter-spacing: .03em; }
.facts { width: auto; } .facts th { background: none; border: 0; padding: .1rem 1.2rem .1rem 0; color: var(--soft); }
.facts td { border: 0; padding: .1rem 0; }
.abstract { border-left: 4px solid var(--link); padding: .2rem 0 .2rem 1rem; font-size: 1.05rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; line-height: 1.45; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { text-align: left; vertical-align: top; padding: .4rem .7rem; border: 1px solid var(--line); }
th { background: var(--tint); }
figure { margin: 1.2rem 0; } figcaption { font-weight: 600; font-size: .93rem; margin-bottom: .3rem; }
pre { margin: 0; padding: .8rem 1rem; background: var(--tint); border: 1px solid var(--line); border-radius: 6px;
  overflow: auto; max-height: 32rem; font: .82rem/1.5 ui-monospace, monospace; tab-size: 2; }
code { font: .88em ui-monospace, monospace; background: var(--tint); padding: .05em .3em; border-radius: 3px; }
.t { color: var(--name); } .a { color: var(--key); } .v { color: var(--value); } .b { color: var(--soft); }
dt { font-weight: 600; margin-top: .8rem; } dd { margin: .1rem 0 0 1.4rem; }
li { margin: .3rem 0; }
sup { line-height: 0; }
sup a { text-decoration: none; font-size: .8em; } .notes { font-size: .88rem; color: var(--soft); }
.notes li { overflow-wrap: anywhere; }
@media (max-width: 70rem) { .page { display: block; max-width: 56rem; margin: auto; }
  nav { position: static; height: auto; } }
@media print { nav { display: none; } .page { display: block; } pre { max-height: none; white-space: pre-wrap; } }
"""

KEYWORDS = (
    "MUST, MUST NOT, REQUIRED, SHALL, SHALL NOT, SHOULD, SHOULD NOT, RECOMMENDED, NOT RECOMMENDED, MAY and OPTIONAL "
    'are meant as BCP 14 (<a href="https://www.rfc-editor.org/rfc/rfc2119">RFC 2119</a>, '
    '<a href="https://www.rfc-editor.org/rfc/rfc8174">RFC 8174</a>) describes them when, and only when, '
    "they appear in all capitals, as shown here."
)

_TAGS = {
    "p": "p", "ul": "ul", "ol": "ol", "li": "li", "dl": "dl", "dt": "dt", "dd": "dd", "tr": "tr", "th": "th",
    "td": "td", "tt": "code", "em": "em", "strong": "strong", "cite": "cite", "span": "span", "dfn": "dfn",
    "br": "br", "blockquote": "blockquote", "acronym": "abbr",
}  # fmt: skip
_BASE64 = re.compile(r"^( *)([A-Za-z0-9+/]{40,}={0,2})$", re.MULTILINE)


class _Page:
    """One rendering: counts examples and collects footnotes."""

    def __init__(self, document: etree._ElementTree, site: str | None) -> None:
        self.document = document
        self.site = site
        self.notes: list[str] = []
        self.examples = 0

    def inside(self, element: etree._Element) -> str:
        parts = [html.escape(element.text or "", quote=False)]
        for child in element:
            if isinstance(child.tag, str):
                parts.append(self.element(child))
            parts.append(html.escape(child.tail or "", quote=False))
        return "".join(parts)

    def element(self, element: etree._Element) -> str:
        match element.tag:
            case "link":
                return f'<a href="{html.escape(element.get("url", ""))}">{self.inside(element)}</a>'
            case "note":
                return self._note(element)
            case "example" | "code":
                return self._listing(element)
            case "table":
                caption = element.get("caption")
                head = f"<caption>{html.escape(caption)}</caption>" if caption else ""
                return f'<div class="scroll"><table>{head}{self.inside(element)}</table></div>'
            case "di" | "div":
                return self.inside(element)
            case tag if tag in _TAGS:
                name = _TAGS[str(tag)]
                return f"<{name}>" if name == "br" else f"<{name}>{self.inside(element)}</{name}>"
            case _:
                raise ValueError(f"line {element.sourceline}: no rendering for <{_name(element)}>")

    def _note(self, element: etree._Element) -> str:
        self.notes.append(self.inside(element))
        number = len(self.notes)
        return f'<sup id="noteref-{number}"><a href="#note-{number}">{number}</a></sup>'

    def _listing(self, element: etree._Element) -> str:
        text = html.escape((element.text or "").strip("\n"), quote=False)
        caption = html.escape(element.get("caption", ""))
        identity = ""
        if element.tag == "example" or text.startswith("&lt;?xml"):
            text = _colored(text)
        if element.tag == "example":
            self.examples += 1
            caption = f"Example {self.examples}. {caption}"
            identity = f' id="example-{self.examples}"'
        head = f"<figcaption>{caption}</figcaption>" if caption else ""
        return f'<figure{identity}>{head}<pre tabindex="0">{text}</pre></figure>'

    def sections(self, parent: etree._Element, level: int, prefix: str) -> Iterator[tuple[str, etree._Element]]:
        for number, section in enumerate(parent.iterfind(f"section{level}"), 1):
            yield f"{prefix}{number}.", section

    def contents(self, parent: etree._Element, level: int = 1, prefix: str = "") -> str:
        items = []
        for number, section in self.sections(parent, level, prefix):
            link = f'<a href="#{section.get("anchor")}"><span class="number">{number}</span>'
            link += f"{html.escape(section.get('topic', ''))}</a>"
            items.append(f"<li>{link}{self.contents(section, level + 1, number) if level < 2 else ''}</li>")
        return f"<ol>{''.join(items)}</ol>" if items else ""

    def body(self, parent: etree._Element, level: int = 1, prefix: str = "") -> str:
        parts = []
        numbers = (number for number, _ in self.sections(parent, level, prefix))
        for child in parent:
            if not isinstance(child.tag, str) or child.tag == "header":
                continue
            if child.tag == f"section{level}":
                number = next(numbers)
                heading = f"h{level + 1}"
                parts.append(
                    f'<section id="{child.get("anchor")}"><{heading}><span class="number">{number}</span>'
                    f"{html.escape(child.get('topic', ''))}</{heading}>{self.body(child, level + 1, number)}</section>"
                )
            else:
                parts.append(self.element(child))
        return "\n".join(parts)

    def page(self) -> str:
        root, header = self.document.getroot(), self.document.find("header")
        assert header is not None
        title, status = _text_of(header, "title"), _text_of(header, "status")
        body = self.body(root)
        back = "" if self.site is None else f'<p><a href="{html.escape(self.site)}">The project</a></p>'
        facts = [
            ("Type", _text_of(header, "type")),
            ("Version", ", ".join(_text(self.document, f"header/revision/{part}") for part in ("version", "date"))),
            ("Needs", ", ".join(spec.text or "" for spec in header.iterfind("dependencies/spec"))),
        ]
        rows = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in facts)
        notes = "".join(
            f'<li id="note-{number}">{note} <a href="#noteref-{number}" aria-label="back">&#8617;</a></li>'
            for number, note in enumerate(self.notes, 1)
        )
        legal = "".join(f"<p>{self.inside(part)}</p>" for part in header.iterfind("legal/*"))
        revisions = "".join(
            f"<li><strong>{_text_of(one, 'version')}</strong> ({_text_of(one, 'date')}): "
            f"{html.escape(' '.join(' '.join(part.itertext()) for part in one.iterfind('remark')))}</li>"
            for one in header.iterfind("revision")
        )
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><div class="page">'
            f'<nav aria-label="Contents">{back}{self.contents(root)}</nav><main>'
            f'<div class="status">{html.escape(status)}</div><h1>{html.escape(title)}</h1>'
            f'<p class="abstract">{html.escape(_text_of(header, "abstract"))}</p><table class="facts">{rows}</table>'
            f'{body}<section id="notes"><h2>Notes</h2><ol class="notes">{notes}</ol></section>'
            f'<section id="keywords"><h2>Requirement Keywords</h2><p class="notes">{KEYWORDS}</p></section>'
            f'<section id="legal"><h2>Legal Notices</h2><div class="notes">{legal}</div></section>'
            f'<section id="revisions"><h2>Revision History</h2><ul class="notes">{revisions}</ul></section>'
            "</main></div></body></html>\n"
        )


def _colored(text: str) -> str:
    """Escaped XML with its tags, attributes and base64 in colors."""

    colored = re.sub(r"([\w:.-]+)=('[^']*')", r'<span class="a">\1</span>=<span class="v">\2</span>', text)
    colored = re.sub(r"(&lt;/?[\w:.?-]+)", r'<span class="t">\1</span>', colored)
    colored = re.sub(r"(/?&gt;)", r'<span class="t">\1</span>', colored)
    return _BASE64.sub(r'\1<span class="b">\2</span>', colored)


def render(document: etree._ElementTree, site: str | None = None) -> str:
    """The document as one HTML page that needs nothing else.

    :param site: address of the project's documentation, which the page links to
    """
    return _Page(document, site).page()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Check the documents of the specification and render each as one HTML page.",
        epilog="example:  python xep/render.py --xsf ../xeps --output /tmp/pages",
    )
    parser.add_argument("documents", nargs="*", type=Path, default=DOCUMENTS, help="default: all beside this script")
    parser.add_argument("--output", type=Path, help="folder for the pages; default: build/ beside each document")
    parser.add_argument("--site", metavar="URL", help="a link from each page to the project's documentation")
    parser.add_argument("--check", action="store_true", help="check only")
    parser.add_argument(
        "--xsf",
        type=Path,
        default=Path(os.environ["XSF_XEPS"]) if os.environ.get("XSF_XEPS") else None,
        help="folder with the XSF's xep.dtd and xep.ent; default: XSF_XEPS if set",
    )
    options = parser.parse_args(arguments)
    results = [_one(path, options.xsf, options.check, options.output, options.site) for path in options.documents]
    return 0 if all(results) else 1


def _one(path: Path, xsf: Path | None, check: bool, folder: Path | None, site: str | None) -> bool:
    """Check a document and, if it is sound, write its page."""
    try:
        document = load(path, xsf)
    except (OSError, etree.XMLSyntaxError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return False
    found = problems(document, path, xsf)
    for problem in found:
        print(f"{path.name}: {problem}", file=sys.stderr)
    if found:
        return False
    print(f"{path.name}: no problems" + ("" if xsf else " (the XSF's own DTD was not at hand)"))
    if not check:
        output = (folder or path.parent / "build") / f"{path.stem}.html"
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(render(document, site), encoding="utf-8")
        print(f"rendered: {output}")
    return True


if __name__ == "__main__":
    sys.exit(main())
