"""Compiles the files named on standard input, one answer line each; run as a process of its own.

Only what the compiler says to its public logger is passed on: the `Layers:` message and errors.
The engine itself is thrown away unread. `python child.py SM89 60`
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any


def main(sm: str, limit: int) -> None:
    """Answer until standard input ends. SIGALRM ends the process when one graph takes too long."""
    # what the library prints must not get between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import tensorrt_rtx

    for line in sys.stdin:
        signal.alarm(limit)
        answer = build(tensorrt_rtx, line.rstrip("\n"), sm)
        signal.alarm(0)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def build(trt: Any, path: str, sm: str) -> dict[str, Any]:
    """`{"layers": text or "", "errors": [...]}` for one file."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.layers = ""
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)
            elif message.startswith("Layers:"):
                self.layers = message

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(path):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        return {"layers": "", "errors": [f"{e.node_name()}: {e.desc()}" for e in found]}
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, sm), 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # every unknown dimension is 1: plans do not differ with the batch
    profile = builder.create_optimization_profile()
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for tensor in inputs:
        if any(d < 0 for d in tensor.shape):
            shape = [max(1, d) if d else 0 for d in tensor.shape]
            profile.set_shape(tensor.name, shape, shape, shape)
    if any(d < 0 for tensor in inputs for d in tensor.shape):
        config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config)
    return {"layers": log.layers if built is not None else "", "errors": log.errors}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
