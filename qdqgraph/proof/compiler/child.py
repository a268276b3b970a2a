"""Compiles the files named on standard input, one JSON line each way; a process of its own.

    {"path": "model.onnx", "shapes": {"x": [[1, 3], [1, 3], [8, 3]]}}

Only what the compiler says to its public logger is passed on: the `Layers:` message, memory,
errors and warnings. The engine itself is thrown away unread. `python child.py SM89`
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
from typing import Any

MEMORY = {
    "weights": "Total Weights Memory",
    "activations": "Total Activation Memory",
    "scratch": "Max Scratch Memory",
}
DYNAMIC = (1, 1, 8)
"""Extent of a dimension that the graph did not call dynamic, but the parser does."""


def main(sm: str) -> None:
    """Answer until standard input ends."""
    # What the library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Modules beside this file must not stand in for others of the same name.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != here]
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, Any]
        try:
            compiler = importlib.import_module("tensorrt_rtx")
            answer = build(compiler, asked["path"], sm, asked["shapes"])
        except ImportError as error:
            answer = {"unusable": str(error)}
        except Exception as error:
            answer = {"errors": [f"{type(error).__name__}: {error}"]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def build(trt: Any, path: str, sm: str, shapes: dict[str, list[list[int]]]) -> dict[str, Any]:
    """What the log says about one file.

    `layers` and `layers_at_opt` are the texts of the plan, and of that with every shape fixed at
    its optimum (empty for fixed graphs); `refusals` are those of the parser.
    """

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.layers = ""
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.memory: dict[str, int] = {}

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(message)
            elif message.startswith("Layers:"):
                self.layers = message
            for key, label in MEMORY.items():
                found = re.match(rf"{label}: (\d+) bytes", message)
                if found:
                    self.memory[key] = int(found[1])

    log = Log()
    started = time.perf_counter()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    answer: dict[str, Any] = {"version": trt.__version__}
    if not parser.parse_from_file(path):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        answer["refusals"] = [
            {
                "node": error.node_name(),
                "index": error.node(),
                "op": error.node_operator(),
                "what": error.desc(),
                "inside": error.local_function_stack_size() > 0,
            }
            for error in found
        ]
        return {**answer, "errors": log.errors, "warnings": log.warnings}
    parsed = time.perf_counter()
    config, ranges = configure(trt, builder, network, sm, shapes)
    built = builder.build_serialized_network(network, config)
    answer |= {
        "layers": log.layers if built is not None else "",
        "errors": list(log.errors),
        "warnings": list(log.warnings),
        "memory": dict(log.memory),
        "shapes": ranges,
        "seconds": [round(parsed - started, 3), round(time.perf_counter() - parsed, 3)],
    }
    if built is not None and any(low != high for low, _, high in ranges.values()):
        # The log of a dynamic plan hides dimensions; one for the optimum alone shows them.
        log.layers = ""
        fixed = {name: [opt, opt, opt] for name, (_, opt, _) in ranges.items()}
        config, _ = configure(trt, builder, network, sm, fixed)
        again = builder.build_serialized_network(network, config)
        answer["layers_at_opt"] = log.layers if again is not None else ""
    return answer


def configure(
    trt: Any, builder: Any, network: Any, sm: str, shapes: dict[str, list[list[int]]]
) -> tuple[Any, dict[str, list[list[int]]]]:
    """A builder configuration, and the shapes in its optimization profile."""
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, sm), 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    used: dict[str, list[list[int]]] = {}
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        dims = list(tensor.shape)
        if tensor.is_shape_tensor and tensor.name in shapes:
            used[tensor.name] = shapes[tensor.name]
            profile.set_shape_input(tensor.name, *used[tensor.name])
        elif any(d < 0 for d in dims):
            default = [[d if d >= 0 else size for d in dims] for size in DYNAMIC]
            used[tensor.name] = shapes.get(tensor.name, default)
            profile.set_shape(tensor.name, *used[tensor.name])
    if used:
        config.add_optimization_profile(profile)
    return config, used


if __name__ == "__main__":
    main(sys.argv[1])
