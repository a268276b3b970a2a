"""`name{option=value}`: how passes and their options are spelled, everywhere the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args, get_origin

from qdqgraph.errors import UsageError

if TYPE_CHECKING:
    from qdqgraph.graph.view import Node

Option: TypeAlias = "bool | int | float | str | Callable[[Node], bool]"

SPELLING = re.compile(r"^\s*(?P<name>[A-Za-z][\w-]*)\s*(?:\{(?P<options>.*)\})?\s*$", re.S)


def split_spelling(text: str) -> tuple[str, dict[str, str]]:
    """`name{a=1,scope=x.*}` taken apart. Raises `UsageError` when it is not of that form.

    >>> split_spelling("share{guard=16}")
    ('share', {'guard': '16'})
    """
    found = SPELLING.match(text)
    if not found:
        raise UsageError(
            f"{text!r} does not spell a pass", fix="write name or name{option=value,...}"
        )
    return found["name"].replace("_", "-"), split_options(found["options"] or "", text)


def split_options(text: str, whole: str = "") -> dict[str, str]:
    """`a=1,b=percentile{p=99.9,two_sided=true}` as a dict; commas inside braces belong to a value.

    >>> split_options("bits=8,method=percentile{p=99.9,two_sided=true}")["method"]
    'percentile{p=99.9,two_sided=true}'
    """
    parts, depth = [""], 0
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    options: dict[str, str] = {}
    for part in filter(str.strip, parts):
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"{part!r} in {whole or text!r} is not option=value")
        options[key.strip()] = value.strip()
    return options


def spell(value: Option) -> str:
    """One option value as `name{option=value}` writes it."""
    if callable(value):
        return getattr(value, "__name__", "callable")
    return str(value).lower() if isinstance(value, bool) else str(value)


def convert(given: Option, kind: object, where: str) -> Option:
    """`given` as the type of the option. Raises `UsageError` saying what is allowed."""
    if callable(given):
        return given
    if get_origin(kind) is Literal:
        allowed = get_args(kind)
        for choice in allowed:
            if str(choice) == str(given):
                return choice
        raise UsageError(
            f"{given!r} is no choice for {where}", fix=f"one of {', '.join(map(str, allowed))}"
        )
    text = str(given).strip()
    try:
        if kind is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                text.lower()
            ]
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
    except (KeyError, ValueError):
        raise UsageError(
            f"{given!r} is no {getattr(kind, '__name__', kind)}", where=where
        ) from None
    return text
