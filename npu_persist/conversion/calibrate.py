"""int4 weights chosen by what flows through them: NNCF's activation-aware quantization (AWQ) and scale estimation.

NNCF (https://github.com/openvinotoolkit/nncf) compresses what is to be int4; the rest is left to `compress`. AWQ may
move a factor from a weight to what comes before it: such a weight is another tensor than the module's, by columns.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from typing import TYPE_CHECKING, Any

import openvino as ov

from npu_persist.conversion.compress import WEIGHTED, Compressed, choose, find_weights
from npu_persist.errors import ConversionError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import torch

    from npu_persist.conversion.compress import Plan


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
    nncf.set_log_level(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
            model = nncf.compress_weights(
                model,
                mode=nncf.CompressWeightsMode.INT4_SYM,
                ratio=1.0,
                group_size=plan.group_size or -1,
                all_layers=True,
                ignored_scope=nncf.IgnoredScope(names=sorted(ignored), validate=False),
                dataset=nncf.Dataset([list(call) for call in calls]),
                awq=True,
                scale_estimation=True,
                advanced_parameters=nncf.AdvancedCompressionParameters(
                    group_size_fallback_mode=nncf.GroupSizeFallbackMode.IGNORE
                ),
            )
    except (RuntimeError, ValueError, nncf.ValidationError) as error:
        raise ConversionError(
            f"NNCF could not calibrate the graph: {error}. Leave calibration out, or report it."
        ) from error
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
