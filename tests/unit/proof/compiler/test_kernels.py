"""The `Layers:` message is read whatever the names in it are."""

from __future__ import annotations

from qdqgraph.proof.compiler.kernels import Kernel, Tensor, read_layers
from tests.unit.proof.compiler.message import line, message, tensor

ODD = "a, LayerType {x}], [y, Name: b / é"
"""A name with every mark that the message uses."""


def test_names_may_hold_the_markers_of_the_log() -> None:
    text = message(
        line(
            "k_myl0_0",
            "kgen",
            [tensor(ODD, "Half", 1, -1)],
            [tensor("b", "Int8", 1, -1), tensor("c", "Float", 1, -1)],
            [ODD, "q"],
        )
    )
    kernels = read_layers(text)
    assert kernels == (
        Kernel(
            "k_myl0_0",
            "kgen",
            (Tensor(ODD, "half", (1, -1)),),
            (),
            (Tensor("b", "int8", (1, -1)), Tensor("c", "float", (1, -1))),
            (ODD, "q"),
        ),
    )
    # an unknown dimension counts once: 2 + 1 + 4 bytes
    assert kernels[0].traffic == 7
    assert str(kernels[0].inputs[0]) == "half[1,?]"


def test_kernels_without_operands_or_origin_are_kept_in_order() -> None:
    text = message(
        "Name: shape_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], "
        "TacticName: , StreamId: 0, Metadata: ",
        line("b", "gemm", [tensor("x", "Int8", 2, 3)], [tensor("y", "Float", 2)], ["fc"]),
    )
    first, second = read_layers(text)
    assert (first.type, first.inputs, first.nodes) == ("shape_call", (), ())
    assert (second.nodes, second.traffic) == (("fc",), 6 + 8)


def test_the_list_of_inputs_and_outputs_behind_the_kernels_is_not_read() -> None:
    assert read_layers(message()) == ()
    assert read_layers("something else") == ()


def test_sizes_of_narrow_and_wide_types() -> None:
    sizes = {t: Tensor("t", t, (3, 1)).size for t in ("int4", "int8", "half", "int32", "int64")}
    # three nibbles take two bytes
    assert sizes == {"int4": 2, "int8": 3, "half": 6, "int32": 12, "int64": 24}
    assert Tensor("empty", "float", (0, 4)).size == 0
