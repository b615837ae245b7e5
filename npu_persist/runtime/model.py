"""A loaded bundle: called like the module it was made from, numpy in and numpy out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from npu_persist.runtime.inputs import Array, as_array, check_symbols

if TYPE_CHECKING:
    import openvino as ov

    from npu_persist.bundle import Bundle
    from npu_persist.manifest import Port, Signature
    from npu_persist.signature import CallPlan


class Model:
    """A compiled model with the call signature of the module that was persisted.

    Any number of threads may call one model: each call takes an inference request of its own, and its results are
    copies that no later call overwrites.

    Attributes:
        bundle: the bundle it was loaded from.
        compiled: the `openvino.CompiledModel`, for what this class does not wrap.

    """

    def __init__(self, bundle: Bundle, compiled: ov.CompiledModel, plan: CallPlan) -> None:
        """Wrap a compiled model; use `npu_persist.load` instead."""
        self.bundle = bundle
        self.compiled = compiled
        self._plan = plan
        self._idle: list[_Lane] = [_Lane(compiled, plan.inputs)]
        self._expected = [_static_form(port) for port in plan.inputs]
        self._has_symbols = any(not isinstance(axis, int) for port in plan.inputs for axis in port.shape)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The graph's inputs: name, numpy dtype, shape."""
        return self._plan.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """The graph's outputs: name, numpy dtype, shape."""
        return self._plan.outputs

    @property
    def signature(self) -> Signature:
        """How the model is called and what it gives."""
        return self._plan.signature

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run one inference.

        Args:
            args: what the module's `forward` takes: numpy arrays, or anything with `__array__` or `__dlpack__`, in the
                structure of the persisted example.
            kwargs: as above.

        Returns:
            The module's own result structure with numpy arrays; a dataclass or ModelOutput comes as a `Record` with the
            same fields.

        Raises:
            InputError: an argument is missing, unknown, or of the wrong structure, dtype, rank or shape. The message
                shows the expected signature.

        """
        return self._plan.rebuild(self.infer(self._plan.flatten(args, kwargs)))

    def infer(self, values: Sequence[Any] | Mapping[str, Any]) -> list[Array]:
        """Run one inference on flat inputs: a sequence in the order of `inputs`, or a dict by their names.

        Returns:
            One array for each of `outputs`, in their order.

        """
        if isinstance(values, Mapping):
            values = self._by_name(values)
        arrays = [
            value
            if value.__class__ is np.ndarray and value.shape == shape and value.dtype is dtype
            else as_array(value, port, self._plan)
            for value, (dtype, shape), port in zip(values, self._expected, self._plan.inputs, strict=True)
        ]
        if self._has_symbols:
            check_symbols(self._plan.inputs, arrays, self._plan)
        try:
            lane = self._idle.pop()
        except IndexError:
            lane = _Lane(self.compiled, self._plan.inputs)
        try:
            return lane.run(arrays)
        finally:
            self._idle.append(lane)

    def _by_name(self, values: Mapping[str, Any]) -> list[Any]:
        from npu_persist.errors import InputError

        names = [port.name for port in self._plan.inputs]
        if set(values) != set(names):
            missing, unknown = sorted(set(names) - set(values)), sorted(set(values) - set(names))
            raise InputError(
                f"expected the inputs {names}; missing {missing}, unknown {unknown}. Expected {self._plan}",
                argument=(missing or unknown)[0],
                expected=str(names),
                got=str(sorted(values)),
            )
        return [values[name] for name in names]

    def __repr__(self) -> str:
        return f"<Model {self.bundle.reference} {self._plan}>"


class _Lane:
    """One inference request with views of its input memory."""

    def __init__(self, compiled: ov.CompiledModel, inputs: Sequence[Port]) -> None:
        self.request = compiled.create_infer_request()
        self.count = len(compiled.outputs)
        is_static = [all(isinstance(axis, int) for axis in port.shape) for port in inputs]
        self.views = [self.request.get_input_tensor(i).data if fixed else None for i, fixed in enumerate(is_static)]

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        request = self.request
        for index, (view, array) in enumerate(zip(self.views, arrays, strict=True)):
            if view is None:
                tensor = request.get_input_tensor(index)
                tensor.shape = array.shape
                view = tensor.data  # noqa: PLW2901 - the memory may have moved with the new shape
            view[...] = array
        request.infer(share_outputs=True)
        return [request.get_output_tensor(index).data.copy() for index in range(self.count)]


def _static_form(port: Port) -> tuple[np.dtype[Any], tuple[int, ...] | None]:
    shape = tuple(axis for axis in port.shape if isinstance(axis, int))
    return np.dtype(port.dtype), shape if len(shape) == len(port.shape) else None
