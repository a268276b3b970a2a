"""The compiler under the names that the oracle tests use."""

from __future__ import annotations

from qdqgraph.proof.compiler.figures import Figures, count
from qdqgraph.proof.compiler.kernels import Kernel, Tensor, read_layers
from qdqgraph.proof.compiler.origins import intended_products, name_of
from qdqgraph.proof.compiler.package import WHY_NOT, installed
from qdqgraph.proof.compiler.report import Report
from qdqgraph.proof.compiler.session import CHILD, Compiler, compile_all

__all__ = [
    "CHILD",
    "WHY_NOT",
    "Compiler",
    "Figures",
    "Kernel",
    "Report",
    "Tensor",
    "compile_all",
    "count",
    "installed",
    "intended_products",
    "name_of",
    "read_layers",
]
