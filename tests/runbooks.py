"""The runbooks of docs/runbooks.md as the console's page has them; run it to write them into the page."""

from __future__ import annotations

import html
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "engine" / "console" / "static" / "index.html"
BEGIN, END = "<!-- runbooks -->\n", "<!-- /runbooks -->\n"


def anchor(title: str) -> str:
    return "runbook-" + re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def runbooks() -> str:
    """Return the document's sections as HTML: headings, paragraphs, numbered lists, tables, code and emphasis."""
    text = (ROOT / "docs" / "runbooks.md").read_text()
    parts = []
    for part in re.split(r"\n## ", text)[1:]:
        title, _, body = part.partition("\n")
        parts.append(f'<section id="{anchor(title)}" tabindex="-1">\n<h3>{_inline(title)}</h3>\n')
        for block in body.strip().split("\n\n"):
            if block.startswith("1. "):
                items = re.split(r"\n\d+\. ", block[3:])
                parts.append("<ol>\n" + "".join(f"<li>{_inline(item)}</li>\n" for item in items) + "</ol>\n")
            elif block.startswith("|"):
                parts.append(_table(block.splitlines()))
            else:
                parts.append(f"<p>{_inline(block)}</p>\n")
        parts.append("</section>\n")
    return "".join(parts)


def _table(lines: list[str]) -> str:
    """Return a table of two columns as a list of terms: the first explains what the second is for."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return "<dl>\n" + "".join(f"<dt>{_inline(what)}</dt>\n<dd>{_inline(how)}</dd>\n" for what, how in rows) + "</dl>\n"


def _inline(text: str) -> str:
    words = html.escape(" ".join(text.split()), quote=False)
    words = re.sub(r"`([^`]+)`", r"<code>\1</code>", words)
    words = re.sub(r"\[([^\]]+)\]\(#([a-z-]+)\)", r'<a href="#runbook-\2">\1</a>', words)
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", words)


def on_the_page() -> str:
    return PAGE.read_text().split(BEGIN)[1].split(END)[0]


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + runbooks() + END + rest.split(END)[1])
