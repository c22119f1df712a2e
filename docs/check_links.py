#!/usr/bin/env python3
"""Check each link inside the built site, without a network: the page exists, and so does the place in it.

Links to other sites are not followed.  Used by ``make docs``; example: ``python docs/check_links.py docs/_build/html``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lxml import html


def check(site: Path) -> list[str]:
    """What is wrong with the site's links, in one line each."""
    pages = {path.resolve(): html.parse(str(path)).getroot() for path in sorted(site.rglob("*.html"))}
    places = {path: set(page.xpath("//@id | //a/@name")) for path, page in pages.items()}
    wrong = []
    for path, page in pages.items():
        for link in page.xpath("//a/@href | //img/@src | //object/@data"):
            target = urlsplit(link)
            if target.scheme or target.netloc:
                continue
            there = (path.parent / unquote(target.path)).resolve() if target.path else path
            if not there.exists():
                wrong.append(f"{path.relative_to(site.resolve())}: {link} leads nowhere")
            elif target.fragment and there in places and unquote(target.fragment) not in places[there]:
                wrong.append(f"{path.relative_to(site.resolve())}: {link} names a place that is not there")
    return wrong


def main() -> int:
    """The entry point."""
    site = Path(sys.argv[1])
    wrong = check(site)
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{len(list(site.rglob('*.html')))} pages, {len(wrong)} broken links")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
