"""A loaded bundle: called like the module it was made from, numpy in and numpy out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from npu_persist.bundle.graph_records import DictNode
from npu_persist.errors import InputError, UsageError
from npu_persist.runtime.inputs import Array, Symbols, as_array, read_limits
from npu_persist.runtime.lanes import LENT
from npu_persist.runtime.map import run_all
from npu_persist.runtime.report import read_layers
from npu_persist.runtime.requests import Inference
from npu_persist.runtime.session import Session
from npu_persist.runtime.started import Started

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from concurrent.futures import Future
    from types import TracebackType

    import openvino as ov

    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.graph_records import Graph, Port, Signature, State
    from npu_persist.bundle.signature import CallPlan
    from npu_persist.runtime.report import LayerTime, LiveReport, Report
    from npu_persist.runtime.requests import Requests

_LIMITS = {None: float(LENT), True: 0.0, False: float("inf")}
"""`share_inputs` → bytes from which an input is lent."""

_OPTIONS = ("share_inputs", "share_outputs")


class Model:
    """A compiled model with the call signature of the module that was persisted.

    Any number of threads may use one model: each inference uses its own request, and its results are copies that later
    inferences do not overwrite. A model with a state (`has_state`) has one state and one request: its inferences run
    one after the other, in the order of the calls.

    `close`, or the end of a `with` block, frees its resources immediately; otherwise garbage collection does.

    Attributes:
        bundle: The bundle it was loaded from.
        graph: The manifest's record of its graph.

    Example:
        >>> import numpy, torch, npu_persist
        >>> _ = npu_persist.persist(torch.nn.Flatten(), "doc-model", (torch.zeros(1, 2, 2),))
        >>> model = npu_persist.load("doc-model", device="CPU")
        >>> x = numpy.ones((1, 2, 2), numpy.float32)
        >>> model(x)
        array([[1., 1., 1., 1.]], dtype=float32)
        >>> future = model.submit(x)  # a concurrent.futures.Future; `await asyncio.wrap_future(future)` works too
        >>> future.result().shape
        (1, 4)
        >>> [float(result.sum()) for result in model.map(x * step for step in range(3))]
        [0.0, 4.0, 8.0]
        >>> with model.start(x) as started:
        ...     name = model.outputs[0].name
        ...     started.output(name)[0, 0]
        np.float32(1.0)
        >>> model.close()
    """

    def __init__(  # noqa: PLR0913 (as many as a model has parts)
        self,
        bundle: Bundle,
        graph: Graph,
        plan: CallPlan,
        requests: Requests,
        report: LiveReport,
        *,
        check_values: bool = True,
    ) -> None:
        """Wrap compiled models; use `npu_persist.load` instead."""
        self.bundle = bundle
        self.graph = graph
        self._report = report
        self._plan = plan
        self._expected = [(np.dtype(port.dtype), _static_shape(port), port) for port in plan.inputs]
        self._limits = read_limits(plan.inputs) if check_values else []
        self._symbols = None if all(shape is not None for _, shape, _ in self._expected) else Symbols(plan.inputs)
        self._options = [name for name in _OPTIONS if name not in _names(plan.signature)]
        self._requests = requests

    @property
    def graphs(self) -> Mapping[str, Model]:
        """The loaded graphs' models, by name: `model.graphs["encoder"](mel)`."""
        return {self.graph.name: self}

    @property
    def compiled(self) -> ov.CompiledModel:
        """The `openvino.CompiledModel`, for what this class does not wrap; with buckets, the largest one's.

        Raises:
            ModelClosedError: The model was closed.
        """
        return self._requests.compiled

    @property
    def report(self) -> Report:
        """How the model was loaded, its first inference, and the devices that execute it now."""
        return self._report.read()

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The graph's inputs: name, numpy dtype, shape."""
        return self._plan.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """The graph's outputs: name, numpy dtype, shape."""
        return self._plan.outputs

    @property
    def buckets(self) -> tuple[Mapping[str, tuple[int, ...]], ...]:
        """The sizes that it is compiled for, smallest first, each with the shapes of the inputs with dynamic axes.

        A call runs in the smallest bucket that it fits into: its inputs are padded, and its outputs cut back. Empty for
        a model that is compiled without buckets.
        """
        return ()

    @property
    def signature(self) -> Signature:
        """How the model is called and what it returns."""
        return self._plan.signature

    @property
    def has_state(self) -> bool:
        """Whether the model keeps a state from one inference to the next, until `reset`."""
        return self._requests.has_state

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run one inference.

        The keyword arguments `share_inputs` and `share_outputs` are options, described at `infer`, unless the module
        itself has a parameter of that name.
        """
        plan = self._plan
        if kwargs:
            options = {name: kwargs.pop(name) for name in self._options if name in kwargs}
            if options:
                return plan.rebuild(self.infer(plan.flatten(args, kwargs), **options))
        return plan.rebuild(self._requests.run(self._check(plan.flatten(args, kwargs))))

    def infer(
        self,
        values: Sequence[Any] | Mapping[str, Any],
        *,
        share_inputs: bool | None = None,
        share_outputs: bool = False,
    ) -> list[Array]:
        """Run one inference on flat inputs: a sequence in the order of `inputs`, or a dict by their names.

        Args:
            values: The inputs.
            share_inputs: Whether the device reads the caller's arrays in place during the call: None, those of 512 KiB
                or more, for which that is faster than a copy; True, all; False, none. Only arrays that are contiguous,
                aligned, writeable and of a fixed shape can be shared; others are copied.
            share_outputs: False returns copies. True returns views of the inference request's memory without copying:
                the next inference of any thread overwrites them. Outputs that are one tensor in the graph share
                memory. Outputs of varying size, and those that are an array of the caller, are always copied.

        Returns:
            One array for each of `outputs`, in their order.

        Raises:
            InputError: An input is missing, unknown, or of the wrong dtype, rank or shape.
            InferenceError: The device failed.
            UsageError: `share_inputs` is not None, True or False.
        """
        if share_inputs is not None and not isinstance(share_inputs, bool):
            raise UsageError(f"share_inputs: expected None, True or False; got {share_inputs!r}")
        return self._requests.run(self._check(values), _LIMITS[share_inputs], share_outputs=bool(share_outputs))

    def submit(self, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue one inference and return immediately.

        The inputs are copied before this returns. The device's optimal number of inferences runs at once (OpenVINO's
        OPTIMAL_NUMBER_OF_INFER_REQUESTS); further ones wait, in order, in an unlimited queue, each with a copy of its
        inputs: use `map` for many inputs.

        Args:
            args: As for a call.
            kwargs: As for a call, without its options.

        Returns:
            A future with the call's result. It can be cancelled while it waits in the queue. It raises
            InferenceError if the device fails, InputError if the graph rejects the sizes of dynamic inputs.

        Raises:
            InputError: As for a call.
        """
        plan = self._plan
        inference = self._make_inference(plan.flatten(args, kwargs))
        return self._requests.queue(lambda: plan.rebuild(inference()))

    def map(self, iterable: Iterable[Any], *, ordered: bool = True) -> Generator[Any, None, None]:
        """Run the model over many inputs, with the device's optimal number of inferences at once.

        Args:
            iterable: One item for each inference. A tuple is the positional arguments of a call, a dict or other
                mapping its keyword arguments, and anything else its only argument: `model.map(images)`. Wrap an
                argument that is itself a tuple or a mapping in a tuple of one. A named tuple is an argument. An item
                may be overwritten as soon as the next one is requested.
            ordered: Whether results come in the order of the inputs, or as they are done.

        Returns:
            A generator of the calls' results. It takes at most twice as many inputs as there are requests before the
            first result, and one for each further result; with a state, exactly one for each. When it ends, is closed,
            or is interrupted by Ctrl-C, it stops its inferences before it returns; the CPU stops at the end of a
            layer, AUTO and the NPU finish the running inferences.

        Raises:
            InputError: An input does not fit, or `iterable` is not iterable.
            InferenceError: The device failed. Both have the item's number, from 0, as `index`, and end the generator;
                with `ordered` after the results of all earlier inputs. What the iterable raises passes through.
        """
        try:
            items = iter(iterable)
        except TypeError as error:
            raise InputError(f"map: expected an iterable of inputs; got {iterable!r}") from error
        window = 1 if self.has_state else 2 * self._requests.optimal
        return run_all(items, self._start_item, self._plan.rebuild, window=window, is_ordered=ordered)

    def start(self, /, *args: Any, **kwargs: Any) -> Started:
        """Queue one inference as `submit` does, to fetch only some of its outputs later.

        Args:
            args: As for a call.
            kwargs: As for a call, without its options.

        Returns:
            The started inference. It holds an inference request until `release` or the end of a `with` block.

        Raises:
            InputError: As for a call.
        """
        values = self._plan.flatten(args, kwargs)
        has_state = self.has_state
        inference = self._make_inference(values, share_outputs=not has_state, is_kept=not has_state)
        return Started(self._plan, self._requests.queue(inference), inference, has_state=has_state)

    def session(self) -> Session:
        """Start a conversation with its own state, separate from that of the model and of other sessions.

        Raises:
            UsageError: The model has no state.
            InferenceError: The device cannot create another inference request.
            ModelClosedError: The model was closed.
        """
        if not self.has_state:
            raise UsageError(
                f"{self.bundle.reference} has no state, so it needs no sessions: call the model itself. "
                "persist(..., states=...) makes arguments a state"
            )
        return Session(self._plan, self._requests, self._check, self.bundle.reference)

    def close(self) -> None:
        """Free the compiled model with its requests, mapped files and locks; may be called more than once.

        Running and queued inferences are finished first; `start`ed ones are released.
        Later calls raise `ModelClosedError`. The report, the signature and the ports remain available.
        """
        try:
            self._requests.close()
        finally:
            self._report.close()

    def __enter__(self) -> Model:  # noqa: PYI034 (Self is new in Python 3.11)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def states(self) -> tuple[State, ...]:
        """The states that the graph keeps from one inference to the next: name, numpy dtype, shape, and growth."""
        return self._requests.states

    def reset(self) -> None:
        """Set the state to its initial value, after all earlier inferences; without a state, do nothing.

        Call this after an inference or a `map` that failed or was interrupted: the state is undefined then, and calls
        raise `StateError` until the reset.
        """
        self._requests.reset()

    def warm_up(self, values: Sequence[Any] | Mapping[str, Any] | None = None) -> None:
        """Run the model on each of the device's requests, so that their first calls are not slower.

        The state does not change.

        Args:
            values: Flat inputs, as for `infer`: a device may prepare again for each size of dynamic inputs. By default
                those of the golden sample, or random ones of the smallest sizes if the bundle has none.

        Raises:
            InputError: As for `infer`.
            InferenceError: The device failed.
        """
        requests, arrays, _ = self._requests.place(self._copy(self._sample() if values is None else values))
        if not self.has_state:
            requests.run_on_each(arrays)
            return
        with requests.own_lane() as lane:
            requests.run_on(lane, arrays, LENT, share_outputs=True)

    def profile(
        self, values: Sequence[Any] | Mapping[str, Any] | None = None, *, runs: int = 10
    ) -> tuple[LayerTime, ...]:
        """Run inferences and return the time of each layer of the compiled graph.

        The model must have been loaded with counters: `load(reference, device, config={"PERF_COUNT": True})`. The state
        does not change.

        Args:
            values: Flat inputs, as for `infer`; by default those of the golden sample, or random ones.
            runs: Number of inferences.

        Returns:
            The layers in the order in which they run. The device measures the times: the CPU gives the
            mean over all inferences since the model was loaded, other devices may give only the last inference.

        Raises:
            UsageError: The model was loaded without counters, or `runs` is less than 1.
            InputError: As for `infer`.
            InferenceError: The device failed.
        """
        if runs < 1:
            raise UsageError(f"runs: expected 1 or more; got {runs}")
        requests, arrays, _ = self._requests.place(self._check(self._sample() if values is None else values))
        with requests.own_lane() as lane:
            for _ in range(runs):
                if self.has_state:
                    lane.reset()
                requests.run_on(lane, arrays, LENT, share_outputs=True)
            return read_layers(requests.compiled, lane.request, self.bundle.reference)

    def _prepare(
        self, values: Sequence[Any] | Mapping[str, Any]
    ) -> Sequence[tuple[Mapping[str, tuple[int, ...]] | None, Callable[[], list[Array]]]]:
        """Return what runs inputs in each bucket that they fit into, with the bucket; None without buckets."""
        return self._requests.prepare(self._check(values))

    def _settle(self) -> None:
        """Wait until AUTO has chosen the device that executes the model from now on."""
        self._report.settle()

    def _check(self, values: Sequence[Any] | Mapping[str, Any]) -> list[Array]:
        """Return an array for each input, or raise."""
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
        for index, port, limits in self._limits:
            limits.check(arrays[index], port, self._plan)
        if self._symbols is not None:
            self._symbols.check(arrays, self._plan)
        return arrays

    def _copy(self, values: Sequence[Any] | Mapping[str, Any]) -> list[Array]:
        """Return copies, which do not change with the caller's arrays, and can be lent."""
        return [np.array(array, order="C") for array in self._check(values)]

    def _make_inference(self, values: Sequence[Any] | Mapping[str, Any], **options: bool) -> Inference:
        requests, arrays, fit = self._requests.place(self._copy(values))
        return Inference(requests, arrays, fit=fit, **options)

    def _sample(self) -> Mapping[str, Array]:
        from npu_persist.runtime.golden import make_random, read_golden_inputs

        if self.bundle.manifest.golden_of(self.graph) is None:
            return make_random(self.inputs, 0)
        return read_golden_inputs(self.bundle, self.graph)

    def _start_item(self, item: Any) -> tuple[Future[list[Array]], Inference]:
        if type(item) is tuple:
            values = self._plan.flatten(item, {})
        elif isinstance(item, Mapping):
            values = self._plan.flatten((), item)
        else:
            values = self._plan.flatten((item,), {})
        inference = self._make_inference(values)
        return self._requests.queue(inference), inference

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
        name = "" if len(self.bundle.manifest.graphs) == 1 else f" {self.graph.name}"
        return f"<Model {self.bundle.reference}{name} {self._plan}>"


def _names(signature: Signature) -> set[str]:
    """Return the names that the module itself takes as keyword arguments."""
    extra = dict(signature.arguments)
    names = {parameter.name for parameter in signature.parameters}
    for parameter in signature.parameters:
        tree = extra.get(parameter.name)
        if parameter.kind == "var_keyword" and isinstance(tree, DictNode):
            names.update(str(key) for key, _ in tree.items)
    return names


def _static_shape(port: Port) -> tuple[int, ...] | None:
    shape = tuple(axis for axis in port.shape if isinstance(axis, int))
    return shape if len(shape) == len(port.shape) else None
