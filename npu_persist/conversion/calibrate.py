"""What NNCF (https://github.com/openvinotoolkit/nncf) does with calls of real data; the rest is left to `compress`.

`calibrate` chooses int4 weights by what flows through them, with GPTQ: columns that are not rounded yet make up for
those that are. On MiniLM it loses half of what NNCF's AWQ and scale estimation lose, at equal size. These are used
where GPTQ refuses a graph.
`quantize_activations` makes int8 of weights and of what flows through them. There SmoothQuant moves factors in
transformers from weights to what comes before them: such a weight is another tensor than the module's, by columns.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from typing import TYPE_CHECKING, Any

import openvino as ov

from npu_persist.conversion.compress import WEIGHTED, Compressed, choose, find_quantized, find_weights
from npu_persist.errors import ConversionError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    import torch

    from npu_persist.conversion.compress import Plan


log = logging.getLogger(__name__)


def require_nncf() -> None:
    """Raise MissingExtraError where NNCF is not installed."""
    if importlib.util.find_spec("nncf") is None:
        raise MissingExtraError(
            "calibration needs NNCF, which is not installed: pip install 'npu_persist[compress]'.",
            extra="compress",
            name="nncf",
        )


def calibrate(
    model: ov.Model,
    module: torch.nn.Module,
    names: Mapping[str, str],
    plan: Plan,
    calls: Sequence[Sequence[np.ndarray[Any, Any]]],
) -> tuple[ov.Model, dict[str, Compressed]]:
    """Return the graph with its int4 weights, and these by name of the state_dict; arguments are those of `compress`.

    Raises:
        ConversionError: NNCF failed.
    """
    import nncf

    chosen = choose(find_weights(model, module, names), plan)
    others = {user for weight, precision in chosen if precision != "int4" for user in weight.users}
    wanted = {weight.constant.get_friendly_name() for weight, precision in chosen if precision == "int4"}
    known = {user for weight, _ in chosen for user in weight.users}
    operations = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() in WEIGHTED]
    ignored = others | {user for user in operations if user not in known}
    if not wanted:
        return model, {}
    how: dict[str, Any] = {
        "mode": nncf.CompressWeightsMode.INT4_SYM,
        "ratio": 1.0,
        "group_size": plan.group_size or -1,
        "all_layers": True,
        "ignored_scope": nncf.IgnoredScope(names=sorted(ignored), validate=False),
        "dataset": nncf.Dataset([list(call) for call in calls]),
        "advanced_parameters": nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.IGNORE
        ),
    }
    with _running_nncf():
        try:
            model = nncf.compress_weights(model.clone(), **how, gptq=True)
        except nncf.UnsupportedModelError as error:  # a weight before what it is multiplied by, for instance
            log.info("GPTQ refused the graph, AWQ and scale estimation are tried: %s", error)
            model = nncf.compress_weights(model, **how, awq=True, scale_estimation=True)
    constants = {op.get_friendly_name(): op for op in model.get_ordered_ops() if op.get_type_name() == "Constant"}
    done = {}
    for name in sorted(wanted):
        values, scale = constants.get(name), constants.get(f"{name}/scale")
        if values is None or scale is None or values.get_element_type() != ov.Type.i4:
            continue
        grouped = tuple(values.shape)
        axes = tuple(axis for axis, size in enumerate(scale.shape) if size != grouped[axis])
        done[names[name]] = Compressed("int4", name, f"{name}/scale", grouped, axes)
    return model, done


def quantize_activations(
    model: ov.Model,
    module: torch.nn.Module,
    names: Mapping[str, str],
    plan: Plan,
    calls: Sequence[Sequence[np.ndarray[Any, Any]]],
) -> tuple[ov.Model, dict[str, Compressed]]:
    """Return the graph with int8 weights and activations, and the weights by name; arguments are those of `compress`.

    Ranges are symmetric, as NPUs want them. Weights use half of the range of int8: CPUs without VNNI add products of 8
    bits in 16, which overflow otherwise (https://github.com/openvinotoolkit/nncf, `OverflowFix`).

    Raises:
        ConversionError: NNCF failed.
    """
    import nncf

    chosen = choose(find_weights(model, module, names), plan)
    ignored = {user for weight, precision in chosen if precision != "int8" for user in weight.users}
    with _running_nncf():
        model = nncf.quantize(
            model,
            nncf.Dataset([list(call) for call in calls]),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(calls),
            model_type=nncf.ModelType.TRANSFORMER if _has_attention(model) else None,
            ignored_scope=nncf.IgnoredScope(names=sorted(ignored), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        )
    wanted = {user: weight for weight, precision in chosen if precision == "int8" for user in weight.users}
    found = find_quantized(model, wanted)
    return model, {names[unique]: one for unique, one in found.items()}


def _has_attention(model: ov.Model) -> bool:
    """Tell whether NNCF's rules for transformers apply: not to quantize what attention computes, and SmoothQuant."""
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        if kind == "ScaledDotProductAttention":
            return True
        if kind == "Softmax":
            users = [user.get_node().get_type_name() for user in operation.output(0).get_target_inputs()]
            if "MatMul" in users:
                return True
    return False


@contextlib.contextmanager
def _running_nncf() -> Iterator[None]:
    """Hide NNCF's progress bars and messages, and give its errors a type."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)  # not nncf.set_log_level: it sets that of handlers, too, which others may share
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except Exception as error:  # NNCF's own errors have no base, and numpy's and OpenVINO's come through
        raise ConversionError(
            f"NNCF could not calibrate the graph: {error}. Leave calibration out, or report it."
        ) from error
    finally:
        logger.setLevel(level)
