"""The two judges of a written model: the ONNX checker, and loading in onnxruntime.

Loading is made cheap: no optimization, no prepacking, weights in external data are only mapped.
"""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import NodeProto

from qdqgraph.errors import OutputError

_UNKNOWN = re.compile(r"([\w.\-]*):(\w+)\([-\d]*\) is not a registered function/op")
_KERNEL = re.compile(r"find an implementation for (\w+)\(\d+\) node with name '([^']*)'")
_NODE = re.compile(r"[Nn]ode(?: name)?[,:]? \(?[\"']?([^)\"',]+)")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why onnxruntime did not load a model.

    `kind` is `unknown` for an operator it never heard of (then `domain` and `op` say which),
    `kernel` for one it cannot run with these types (`op`, `node`), and `invalid` for all else.
    """

    kind: str
    message: str
    node: str = ""
    op: str = ""
    domain: str = ""


def check_by_onnx(model: Path | onnx.ModelProto, *, full: bool) -> None:
    """Run the ONNX checker, by path for a file; `full` adds strict type and shape inference.

    Raises `OutputError` with the node the checker names.
    """
    check: Any = onnx.checker
    try:
        check.check_model(model, full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        message = str(error)
        raise refused("the ONNX checker", message, node_in(message)) from None


def load_in_runtime(
    model: Path | bytes, folder: Path | None = None
) -> tuple[dict[str, str], Refusal | None]:
    """Load a file or a serialized model; returns the types of its outputs, or the refusal.

    `folder` is where external data of a serialized model lies. Types are spelled as onnxruntime
    does, `tensor(float)`. The session is gone when this returns: several alive at a time would
    add up.
    """
    ort: Any = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # fatal only: what went wrong is in the exception
    options.add_session_config_entry("session.disable_prepacking", "1")
    if folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", os.fspath(folder)
        )
    subject = os.fspath(model) if isinstance(model, Path) else model
    try:
        session = ort.InferenceSession(subject, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the bindings raise a dozen types with no common base
        return {}, _classify(str(error))
    return {output.name: output.type for output in session.get_outputs()}, None


def _classify(text: str) -> Refusal:
    message = " ".join(text.split())
    if found := _UNKNOWN.search(message):
        return Refusal("unknown", message, op=found[2], domain=found[1])
    if found := _KERNEL.search(message):
        return Refusal("kernel", message, node=found[2], op=found[1])
    return Refusal("invalid", message, node=node_in(message))


def node_in(message: str) -> str:
    """The node that an error message of onnx or onnxruntime names, or nothing."""
    context = re.search(r"Bad node spec for node\. Name: (.*) OpType: ", message)
    found = context or _NODE.search(message)
    return found[1] if found else ""


def refused(by: str, message: str, node: str | NodeProto) -> OutputError:
    """The error for a file that `by` does not accept, on account of `node`."""
    if isinstance(node, NodeProto):
        where = f"node '{node.name}' ({node.op_type})"
    else:
        where = f"node '{node}'" if node else ""
    return OutputError(
        f"{by} refuses the file: {' '.join(message.split())}",
        where=where,
        fix="nothing was written; exclude the node from quantization, or report this",
    )
