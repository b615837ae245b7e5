"""A loaded bundle: called like the module it was made from, numpy in and numpy out.

The promise: any number of threads may call one model, and what a call returned no later call changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from npu_persist.errors import InputError
from npu_persist.runtime.inputs import WIDE, Array, Symbols, as_array, check_range
from npu_persist.signature import describe_value

if TYPE_CHECKING:
    import openvino as ov

    from npu_persist.bundle import Bundle
    from npu_persist.manifest import Port, Signature
    from npu_persist.signature import CallPlan

_LENT = 1 << 19
"""Bytes from which an input is read where it is: copying less is faster than lending it and taking it back."""


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
        self._expected = [(np.dtype(port.dtype), _static_shape(port), port) for port in plan.inputs]
        self._wide = [(index, port) for index, port in enumerate(plan.inputs) if port.dtype in WIDE]
        self._symbols = None if all(shape is not None for _, shape, _ in self._expected) else Symbols(plan.inputs)
        self._idle: list[_Lane] = [self._new_lane()]

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

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
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

        Raises:
            InputError: an input is missing, unknown, or of the wrong dtype, rank or shape.

        """
        if isinstance(values, Mapping):
            values = self._by_name(values)
        elif len(values) != len(self._expected):
            raise self._wrong_inputs(f"{len(values)} inputs")
        arrays = [
            value
            if value.__class__ is np.ndarray and value.shape == shape and value.dtype is dtype
            else as_array(value, port, self._plan)
            for value, (dtype, shape, port) in zip(values, self._expected, strict=True)
        ]
        for index, port in self._wide:
            check_range(arrays[index], port, self._plan)
        if self._symbols is None:
            return self._run(arrays)
        self._symbols.check(arrays, self._plan)
        try:
            return self._run(arrays)
        except RuntimeError as error:
            shapes = ", ".join(map(describe_value, arrays))
            raise InputError(
                f"OpenVINO could not run the model on these sizes, although each is within its bounds: {shapes}. "
                f"Expected {self._plan}. OpenVINO said: {error}",
                expected=str(self._plan),
                got=shapes,
            ) from error

    def _run(self, arrays: Sequence[Array]) -> list[Array]:
        try:
            lane = self._idle.pop()
        except IndexError:
            lane = self._new_lane()
        try:
            return lane.run(arrays)
        finally:
            self._idle.append(lane)

    def _new_lane(self) -> _Lane:
        return _Lane(self.compiled, [shape is not None for _, shape, _ in self._expected])

    def _by_name(self, values: Mapping[str, Any]) -> list[Any]:
        names = [port.name for port in self._plan.inputs]
        missing = [name for name in names if name not in values]
        unknown = [name for name in values if name not in names]
        if missing or unknown:
            raise self._wrong_inputs(f"missing {missing}, unknown {unknown}", (missing or unknown)[0])
        return [values[name] for name in names]

    def _wrong_inputs(self, got: str, argument: str | None = None) -> InputError:
        expected = f"the inputs {[port.name for port in self._plan.inputs]}"
        return InputError(
            f"expected {expected}; got {got}. Expected {self._plan}", argument=argument, expected=expected, got=got
        )

    def __repr__(self) -> str:
        return f"<Model {self.bundle.reference} {self._plan}>"


class _Lane:
    """One inference request, and its inputs' own memory."""

    def __init__(self, compiled: ov.CompiledModel, is_static: Sequence[bool]) -> None:
        import openvino as ov

        # OpenVINO's native class: the Python class over it sorts out inputs of many kinds, which doubles a call's cost.
        native: Any = super(ov.CompiledModel, compiled)
        self.request = native.create_infer_request()
        self.share = ov.Tensor
        self.own = [self.request.get_input_tensor(index) for index in range(len(is_static))]
        self.views = [tensor.data if fixed else None for tensor, fixed in zip(self.own, is_static, strict=True)]

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        request = self.request
        lent = []
        try:
            for index, (view, array) in enumerate(zip(self.views, arrays, strict=True)):
                if view is None:
                    own = self.own[index]
                    own.shape = array.shape  # which may move its memory
                    own.data[...] = array
                    # Set each time: the CPU plugin copies a dynamic input that was not set to where the input of the
                    # last request was that was: another thread's, or an array that is gone. For the same reason no
                    # array of the caller is lent to a dynamic input.
                    request.set_input_tensor(index, own)
                elif array.nbytes < _LENT or not _is_lendable(array.flags):
                    view[...] = array
                else:
                    request.set_input_tensor(index, self.share(array, shared_memory=True))
                    lent.append(index)
            return list(request.infer({}, False, False).values())  # noqa: FBT003 - share_outputs, decode_strings
        finally:
            for index in lent:
                request.set_input_tensor(index, self.own[index])


def _is_lendable(flags: Any) -> bool:
    return bool(flags.c_contiguous and flags.writeable and flags.aligned)


def _static_shape(port: Port) -> tuple[int, ...] | None:
    shape = tuple(axis for axis in port.shape if isinstance(axis, int))
    return shape if len(shape) == len(port.shape) else None
