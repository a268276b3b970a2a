"""Entry point: every outcome has one exit code, and every error one line that says what to do."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

import click

from qdqgraph._version import __version__
from qdqgraph.cli.check_commands import check
from qdqgraph.cli.commands import demo, passes, plan, rewrite
from qdqgraph.cli.contract_commands import legalize
from qdqgraph.cli.engine_commands import diff, trtexec
from qdqgraph.cli.quantize_command import quantize
from qdqgraph.errors import QdqGraphError

INTERNAL = 70


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="qdqgraph")
def cli() -> None:
    """INT8 quantization for TensorRT, done on the graph.

    \b
    Exit codes: 0 fine, 1 findings, 2 usage, 3 bad input model, 4 bad calibration data,
    5 nothing to quantize, 6 output not written, 7 target refuses, 70 internal.
    """


for command in (quantize, rewrite, plan, passes, check, legalize, diff, trtexec, demo):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _terminate)
    given = sys.argv[1:] if arguments is None else arguments
    sys.exit(_run(given))


def _run(arguments: list[str]) -> int:
    try:
        result = cli.main(arguments, prog_name="qdqgraph", standalone_mode=False)
        return int(result or 0)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except click.Abort:
        click.echo("interrupted", err=True)
        return 130
    except QdqGraphError as error:
        _tell(error, arguments)
        return error.exit_code
    except Exception as error:
        if os.environ.get("QDQGRAPH_TRACEBACK"):
            traceback.print_exc()
        click.echo(f"internal error: {type(error).__name__}: {error}", err=True)
        click.echo("please report it, with QDQGRAPH_TRACEBACK=1 set to show where", err=True)
        return INTERNAL


def _tell(error: QdqGraphError, arguments: list[str]) -> None:
    kind = type(error).__name__
    click.echo(f"{kind}: {_printable(str(error))}", err=True)
    if "--json" in arguments:
        shown = {"type": kind, "what": error.what, "where": error.where, "fix": error.fix}
        click.echo(json.dumps({"error": shown, "exit_code": error.exit_code}))


def _printable(text: str) -> str:
    """Names may hold control characters; a terminal should not see them."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _terminate(_signum: int, _frame: FrameType | None) -> None:
    sys.exit(143)
