"""The passes, one file each; `ALL` lists them in the order in which the presets run them.

Read them as a cookbook: the first line of each file says what is true afterwards, the rest of the
docstring why the target wants it. Passes see the neutral view only, never ONNX or torch.
"""

from qdqgraph.passes.adopt_fake_quantize import adopt_fake_quantize
from qdqgraph.passes.adopt_quantizers import adopt_quantizers
from qdqgraph.passes.adopt_weights import adopt_weights
from qdqgraph.passes.bound_ranges import bound_ranges
from qdqgraph.passes.configure import configure
from qdqgraph.passes.drop_forwarding import drop_forwarding
from qdqgraph.passes.drop_nan_guards import drop_nan_guards
from qdqgraph.passes.drop_needless import drop_needless
from qdqgraph.passes.emit_pairs import emit_pairs
from qdqgraph.passes.exclude import exclude
from qdqgraph.passes.expand_attention import expand_attention
from qdqgraph.passes.fold_batch_norm import fold_batch_norm
from qdqgraph.passes.fold_batch_norm_before_conv import fold_batch_norm_before_conv
from qdqgraph.passes.fold_constants import fold_constants
from qdqgraph.passes.include import include
from qdqgraph.passes.place_attention import place_attention
from qdqgraph.passes.place_features import place_features
from qdqgraph.passes.place_packed import place_packed
from qdqgraph.passes.place_pools import place_pools
from qdqgraph.passes.place_residual import place_residual
from qdqgraph.passes.place_squeeze_excite import place_squeeze_excite
from qdqgraph.passes.place_weighted import place_weighted
from qdqgraph.passes.recognize_activations import recognize_activations
from qdqgraph.passes.recognize_attention import recognize_attention
from qdqgraph.passes.recognize_fake_quantize import recognize_fake_quantize
from qdqgraph.passes.recognize_layer_norm import recognize_layer_norm
from qdqgraph.passes.share_moved import share_moved
from qdqgraph.passes.share_named import share_named
from qdqgraph.passes.split_wide_groups import split_wide_groups
from qdqgraph.passes.strip_quantizers import strip_quantizers
from qdqgraph.passes.unshare import unshare

ALL = (
    fold_constants,
    drop_forwarding,
    recognize_fake_quantize,
    adopt_weights,
    fold_batch_norm,
    fold_batch_norm_before_conv,
    recognize_activations,
    recognize_layer_norm,
    expand_attention,
    drop_nan_guards,
    recognize_attention,
    adopt_fake_quantize,
    place_weighted,
    place_attention,
    place_packed,
    place_features,
    place_pools,
    place_squeeze_excite,
    place_residual,
    share_moved,
    drop_needless,
    emit_pairs,
    adopt_quantizers,
    split_wide_groups,
)

BY_REQUEST = (strip_quantizers, exclude, include, configure, share_named, unshare, bound_ranges)
"""Passes that do nothing until a user names what they are about."""

__all__ = ["ALL", "BY_REQUEST"]
