"""What onnxruntime quantizes by default runs in int8, every product of it, once it is legalized."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from qdqgraph.proof.legalize.legalizing import legalize
from tests.networks import composites, joins, products, residuals
from tests.oracle.compiler import WHY_NOT, Compiler, installed
from tests.oracle.quantizing import feed

pytestmark = [pytest.mark.oracle, pytest.mark.skipif(not installed(), reason=WHY_NOT)]

NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "residual": residuals.downsample,
    "inception": joins.inception,
    "dense block": joins.dense_block,
    "squeeze and excite": joins.squeeze_excite,
    "gelu with a scalar": lambda: composites.activated(composites.gelu_erf_div),
    "gemm": products.gemm,
}


@pytest.mark.parametrize("layout", ["QDQ", "QOperator"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_product_is_int8(name: str, layout: str, tmp_path: Path, compiler: Compiler) -> None:
    quantization: Any = pytest.importorskip("onnxruntime.quantization")
    source, made = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
    model = NETWORKS[name]()
    onnx.save(model, source)

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds: Iterator[Any] = iter([feed(model, seed) for seed in (1, 2)])

        def get_next(self) -> Any:
            return next(self.feeds, None)

    form = quantization.QuantFormat[layout]
    quantization.quantize_static(str(source), str(made), Reader(), quant_format=form)
    legalized = onnx.load(made)
    assert not compiler.compile(legalized).ok
    report = legalize(legalized, target="tensorrt-rtx", version=())
    assert report.left == []
    compiled = compiler.compile(legalized)
    assert compiled.ok, str(compiled)
    assert compiled.figures.fell_back == (), str(compiled)
    kinds = ("Conv", "Gemm", "MatMul")
    assert compiled.figures.int8_products == sum(n.op_type in kinds for n in legalized.graph.node)
