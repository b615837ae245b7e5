"""Everything that changes a graph between torch and `model.xml`, in the order in which it runs.

To add a rewrite, add a file with one function that changes its argument in place, name here the issue or the quirk that
makes it necessary, and add its test in `tests/unit/conversion/rewrites/`. Conversions of torch operations that
OpenVINO's frontend lacks come first, then rewrites of the `openvino.Model`, then those of its XML. What halves float
weights and is tied to the weights' layout (`half_precision`, `bfloat16`) is called by `write_ir` before the latter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npu_persist.conversion.rewrites.aten_diff import convert_diff
from npu_persist.conversion.rewrites.average_pooling import count_what_is_padded
from npu_persist.conversion.rewrites.constant_folding import fold_constant_results
from npu_persist.conversion.rewrites.empty_means import make_empty_means_nan
from npu_persist.conversion.rewrites.empty_tensors import remove_empty_tensors
from npu_persist.conversion.rewrites.first_of_equals import take_the_first_of_equals
from npu_persist.conversion.rewrites.group_normalization import follow_joined_group_norms
from npu_persist.conversion.rewrites.grouped_attention import add_masks_of_grouped_attention
from npu_persist.conversion.rewrites.in_float import compute_in_float
from npu_persist.conversion.rewrites.index_guards import guard_indices
from npu_persist.conversion.rewrites.integers import make_integer_divisions_exact, make_integers_exact
from npu_persist.conversion.rewrites.interpolation import interpolate_to_the_middle
from npu_persist.conversion.rewrites.layer_names import name_layers
from npu_persist.conversion.rewrites.masked_attention import (
    add_masks_with_keys,
    fill_rows_without_key,
    zero_rows_without_key,
)
from npu_persist.conversion.rewrites.nan import keep_nan
from npu_persist.conversion.rewrites.openvino_passes import clean_up_names, optimize
from npu_persist.conversion.rewrites.packed_integers import keep_packed_integers
from npu_persist.conversion.rewrites.promotion import convert_cumsum, convert_prod
from npu_persist.conversion.rewrites.round_decimals import convert_round
from npu_persist.conversion.rewrites.rounded_quotients import make_rounded_quotients_exact
from npu_persist.conversion.rewrites.small_arguments import (
    convert_expm1,
    convert_log1p,
    convert_log_sigmoid,
    convert_softplus,
)
from npu_persist.conversion.rewrites.small_constants import keep_small_constants
from npu_persist.conversion.rewrites.statistics import (
    convert_cdist,
    convert_std,
    convert_std_mean,
    convert_var,
    convert_var_mean,
)
from npu_persist.conversion.rewrites.tensor_names import strip_tensor_names
from npu_persist.conversion.rewrites.truncation import truncate_in_float

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET
    from collections.abc import Callable

    import openvino as ov

OPERATIONS: dict[str, Callable[[Any], list[Any]]] = {
    "aten::cdist": convert_cdist,  # right for p=2 only
    "aten::cumsum": convert_cumsum,  # integers kept their type: sums of uint8 wrapped around
    "aten::diff": convert_diff,  # called by every transformers decoder that is given no mask
    "aten::expm1": convert_expm1,  # exp(x) - 1 is 0 for small x
    "aten::log1p": convert_log1p,  # log(1 + x) is 0 for small x
    "aten::log_sigmoid": convert_log_sigmoid,  # -inf below -88
    "aten::prod": convert_prod,
    "aten::round": convert_round,  # decimals were ignored
    "aten::softplus": convert_softplus,  # noise below -3; beta and threshold were ignored
    "aten::std": convert_std,  # each correction but zero was taken for one
    "aten::std_mean": convert_std_mean,
    "aten::var": convert_var,
    "aten::var_mean": convert_var_mean,
    "aten.expm1.default": convert_expm1,
    "aten.log1p.default": convert_log1p,
    "aten.softplus.default": convert_softplus,
}
"""Conversions by the torch operation's name: those that the PyTorch frontend lacks, or converts wrongly."""

MODEL_REWRITES: tuple[Callable[[ov.Model], None], ...] = (
    remove_empty_tensors,  # the CPU plugin ends the process
    keep_packed_integers,  # of 4 bits, as NNCF packs them in torch modules; before divisions are rewritten
    guard_indices,  # plugins do not check indices; early, since it knows what the frontend makes of an index
    make_integer_divisions_exact,  # the CPU plugin divides integers in float32
    count_what_is_padded,  # the CPU plugin divides windows at the border by the whole kernel
    interpolate_to_the_middle,  # the frontend takes the first pixel where torch takes the middle
    take_the_first_of_equals,  # the frontend lets OpenVINO choose
    truncate_in_float,  # div(rounding_mode="trunc") goes through 32-bit integers
    make_rounded_quotients_exact,  # the CPU plugin multiplies by the reciprocal: floor(123 / 41) gives 2
    keep_small_constants,  # OpenVINO adds constants first: 1 + 1e-9 is 1
    optimize,  # what openvino.convert_model does
    make_integers_exact,  # the CPU plugin computes many operations on integers in float32
    make_empty_means_nan,  # the CPU plugin gives 0; after optimize, which fuses means
    keep_nan,  # the CPU plugin loses NaN in maxima, comparisons and conversions to booleans
    follow_joined_group_norms,  # the CPU plugin ends the process; after optimize, which would remove what is added
    fold_constant_results,  # the CPU plugin overwrites what it computed from constants
    zero_rows_without_key,  # NaN where a mask leaves attention no key; after folding, when constant masks are known
    add_masks_of_grouped_attention,  # the NPU's compiler fails; after the rows without a key, whose masks are boolean
    clean_up_names,  # the last step of openvino.convert_model
)

IN_FLOAT_REWRITES = (compute_in_float, *MODEL_REWRITES)
"""Those of models that generate: GenAI and NPUW take float32 only, whatever the module computes in."""

DECODER_REWRITES = tuple(
    fill_rows_without_key if rewrite is zero_rows_without_key else rewrite for rewrite in IN_FLOAT_REWRITES
)
"""Those of decoders with a cache: rows of padding are not used, and zeros there would cost two transpositions."""

SPEECH_REWRITES = tuple(
    add_masks_with_keys if rewrite is zero_rows_without_key else rewrite for rewrite in IN_FLOAT_REWRITES
)
"""Those of decoders of speech, whose masks are causal: nothing is padded."""

XML_REWRITES: tuple[Callable[[ET.Element], None], ...] = (
    name_layers,  # OpenVINO's names hold a counter of the process
    strip_tensor_names,  # the tracer's names of inner tensors, and indentation
)
