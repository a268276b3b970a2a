"""Where text goes: stdout for people, stderr when stdout carries JSON; progress on terminals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from qdqgraph.calibration.data.feeds import Feed


class Output:
    """Prints for people, and collects the one JSON object for machines."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(stderr=as_json, highlight=False, emoji=False, soft_wrap=True)

    def line(self, text: str, style: str = "") -> None:
        """Plain text; names in it are shown as they are, control characters escaped."""
        shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
        self.console.print(f"[{style}]{escape(shown)}[/]" if style else escape(shown))

    def result(self, data: dict[str, Any]) -> None:
        """The JSON object, if that was asked for."""
        if self.as_json:
            click.echo(json.dumps(data, indent=1))

    def progress(self, total: int | None) -> Callable[[Iterable[Feed]], Iterator[Feed]]:
        """A wrapper for feeds that draws a bar on a terminal."""

        def wrap(feeds: Iterable[Feed]) -> Iterator[Feed]:
            if not self.console.is_terminal:
                yield from feeds
                return
            columns = (
                TextColumn("calibrating"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            with Progress(*columns, console=self.console, transient=True) as bar:
                task = bar.add_task("calibrating", total=total)
                for feed in feeds:
                    yield feed
                    bar.advance(task)

        return wrap
