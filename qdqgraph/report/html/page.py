"""One HTML file, complete in itself: styles, scripts and data inside, nothing fetched.

Names in a model are a stranger's text. The data is JSON in a block that is not run, with `<`, `>`
and `&` written as escapes, so nothing in it ends the block; the scripts put text into the page as
text alone; and a policy in the page lets no other script run than those hashed here.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib.resources import files
from typing import Any

SCRIPTS = (
    "start.js",
    "paint.js",
    "graph.js",
    "panel.js",
    "tables.js",
    "ranges.js",
    "page.js",
)
"""In the order in which they stand in the page; each uses names of those before it."""


def build_page(data: dict[str, Any]) -> str:
    """The page for `encode`d data. The same data gives the same text, all of it ASCII in the data.

    Non-finite numbers cannot be in it: `json` would write words that no browser reads.
    """
    style = _asset("page.css")
    script = "\n".join(_asset(name) for name in SCRIPTS)
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    sources = f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    filled = {
        "policy": f"default-src 'none'; {sources}",
        "title": html.escape(_printable(str(data["title"]))),
        "verdict": html.escape(_printable(str(data["verdict"]))),
        "style": style,
        "script": script,
        "data": text,
    }
    page = _asset("page.html")
    pieces = page.split("{{")
    built = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        built += [filled[name], rest]
    return "".join(built)


def _asset(name: str) -> str:
    return (files("qdqgraph.report.html") / "assets" / name).read_text("utf-8")


def _digest(text: str) -> str:
    """A hash as a content security policy spells it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode()}"


def _printable(text: str) -> str:
    """Text that can be encoded: lone surrogates as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
