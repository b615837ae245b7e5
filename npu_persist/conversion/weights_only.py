"""Computes in torch what depends on weights alone and has no counterpart in OpenVINO: its result becomes a constant."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from npu_persist.conversion.torch_calls import function_name, storage_of, tensors_of, untraced, written_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import torch

_FAMILIES = ("linalg_", "special_")
_COMPUTED = frozenset(
    {"matrix_exp", "cholesky", "cholesky_inverse", "cholesky_solve", "inverse", "pinverse", "det", "logdet", "slogdet"}
    | {"svd", "svd_lowrank", "pca_lowrank", "qr", "geqrf", "orgqr", "ormqr", "lu", "lu_solve", "lu_unpack", "lstsq"}
    | {"triangular_solve", "matrix_power", "chain_matmul", "vander", "block_diag", "histc", "histogram", "bincount"}
    | {"igamma", "igammac", "lgamma", "digamma", "polygamma", "mvlgamma", "erfinv", "i0", "sinc", "logit", "frexp"}
    | {"tril_indices", "triu_indices", "combinations", "cartesian_prod", "unique", "unique_consecutive", "logspace"}
    | {"hann_window", "hamming_window", "blackman_window", "bartlett_window", "kaiser_window", "quantile", "median"}
)
"""Functions that OpenVINO lacks, or computes for small sizes only."""


def is_computed(name: str) -> bool:
    """Return whether a function of weights alone is computed outside of the trace."""
    return name in _COMPUTED or name.startswith(_FAMILIES)


@contextlib.contextmanager
def computing_weights(module: torch.nn.Module, owned: Iterable[torch.Tensor]) -> Iterator[None]:
    """Make parametrized weights, and functions of weights that OpenVINO lacks, constants of a trace.

    `owned` are the tensors that the module holds.
    """
    parametrized = [part for part in module.modules() if isinstance(part, parametrize.ParametrizationList)]
    values = [part() for part in parametrized]
    try:
        for part, value in zip(parametrized, values, strict=True):
            part.forward = lambda value=value: value  # type: ignore[method-assign, misc]
        with _WeightsOnly([*owned, *values]):
            yield
    finally:
        for part in parametrized:
            part.__dict__.pop("forward", None)


class _WeightsOnly(TorchFunctionMode):
    """Follows what depends on no input, by storage, and runs some of the functions on it outside of the trace."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._is_constant: Any = WeakIdKeyDictionary()
        for tensor in tensors:
            self._is_constant[storage_of(tensor)] = True

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        kwargs, name = kwargs or {}, function_name(func)
        is_constant = all(self._is_constant.get(storage_of(tensor), False) for tensor in tensors_of((args, kwargs)))
        if is_constant and is_computed(name):
            with untraced():
                result = func(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        for tensor in (*tensors_of(result), *written_by(name, args, kwargs)):
            self._is_constant[storage_of(tensor)] = is_constant
        return result
