"""A module's forward, captured as a program that OpenVINO's frontend can convert."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.jit._trace import TracerWarning

from npu_persist.bundle.graph_records import Signature
from npu_persist.compilation.compiler_errors import first_lines
from npu_persist.conversion.decompositions import Replacing, decompose, decomposing
from npu_persist.conversion.decompositions.scripted import write_out_cells
from npu_persist.conversion.decompositions.sizes import sizes_are
from npu_persist.conversion.monitor import watch_forward
from npu_persist.conversion.operations import OperationLog, as_if_traced
from npu_persist.conversion.repeat import repeat
from npu_persist.conversion.sizes import SizeFollower
from npu_persist.conversion.state import Snapshot
from npu_persist.conversion.structure import CacheError, describe_parameters
from npu_persist.conversion.weights_only import computing_weights
from npu_persist.errors import ConversionError, ExampleWarning, FrozenControlFlowWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from npu_persist.conversion.call import Call, Results
    from npu_persist.conversion.sizes import FrozenSize
    from npu_persist.errors import PersistWarning


@dataclass(frozen=True, eq=False, kw_only=True)
class Answered:
    """One call, with what the forward gave and did.

    Attributes:
        call: The call.
        results: What torch gave for the example.
        caveats: Where a program's results may differ from the module's, such as branches that the trace froze.
        noise: By output, how far torch's own answers are apart with other random numbers, relative to its largest.
        operations: The digest of the functions that the forward calls; None where it does not tell the trace.
    """

    call: Call
    results: Results
    caveats: tuple[PersistWarning, ...] = ()
    noise: tuple[tuple[str, float], ...] = ()
    operations: str | None = None

    @property
    def signature(self) -> Signature:
        """How the module is called and what it gives."""
        return Signature(describe_parameters(self.call.module.forward), self.call.arguments, self.results.tree)


@dataclass(frozen=True, eq=False, kw_only=True)
class Capture(Answered):
    """One call as a program of torch's.

    Attributes:
        program: Takes and gives nothing but the call's tensors.
        sizes: What Python read of sizes, and the trace froze; where axes are dynamic.
    """

    program: torch.jit.ScriptModule | torch.export.ExportedProgram
    sizes: tuple[FrozenSize, ...] = ()


class _Flat(torch.nn.Module):
    """What is captured: the module behind a forward that takes and gives nothing but tensors."""

    def __init__(self, module: torch.nn.Module, forward: Callable[[tuple[torch.Tensor, ...]], Results]) -> None:
        super().__init__()
        self.module = module
        self.training = False
        self._forward = (forward,)  # in a tuple, since the tracer looks into every attribute that is a function

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._forward[0](tensors).tensors


def trace(call: Call, *, fix_sizes: bool) -> Capture:
    """Trace a call with `torch.jit.trace`, in a single forward."""
    copies = [tensor.clone() for tensor in call.tensors]
    sizes = None if fix_sizes else SizeFollower()
    with (
        sizes_are(fixed=fix_sizes),
        watch_forward(call.module, copies, sizes, traced=True) as monitor,
        decomposing(),
        warnings.catch_warnings(),
        computing_weights(call.module, monitor.owned),
    ):
        for category in (TracerWarning, DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", "To copy construct from a tensor")  # of a size, which is no tensor otherwise
        forwards: list[Results] = []
        operations: list[str | None] = []

        def forward(tensors: tuple[torch.Tensor, ...]) -> Results:
            if not fix_sizes:
                forwards.append(call.forward(tensors))
                return forwards[-1]
            with OperationLog(call.module, tensors, monitor.owned) as log:
                forwards.append(call.forward(tensors, monitor.is_size))
            operations.append(log.finish(forwards[-1]))
            return forwards[-1]

        program: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
            _Flat(call.module, forward), tuple(copies), check_trace=False, strict=False
        )
        program = write_out_cells(program, call.tensors)
        if not fix_sizes:
            pairs = zip(forwards[-1].paths, forwards[-1].tensors, strict=True)
            call = replace(call, sizes=frozenset(path for path, tensor in pairs if monitor.is_size(tensor)))
        results = forwards[-1].detached(monitor)
    results = replace(results, effects=monitor.effects)
    repetition = repeat(call, results)
    return Capture(
        call=call,
        program=program,
        results=results,
        caveats=(*map(FrozenControlFlowWarning, monitor.frozen), *repetition.caveats),
        sizes=() if sizes is None else tuple(sizes.frozen),
        noise=repetition.noise,
        operations=operations[-1] if operations and _has_no_effects(results, monitor.frozen) else None,
    )


def answer(call: Call) -> Answered | None:
    """Run a call once, without a trace; None where the functions that it calls do not tell the trace.

    Arguments and sizes are as for `trace_example(call, fix_sizes=True)`.
    """
    try:
        return _answer(call)
    except CacheError:
        without = call.without_cache()
        if without is None:
            raise
    return _answer(without)


def _answer(call: Call) -> Answered | None:
    copies = [tensor.clone() for tensor in call.tensors]
    with sizes_are(fixed=True), watch_forward(call.module, copies) as monitor, Replacing(), as_if_traced():
        with OperationLog(call.module, copies, monitor.owned) as log:
            results = call.forward(copies)
        operations = log.finish(results)
        results = results.detached(monitor)
    results = replace(results, effects=monitor.effects)
    if operations is None or not _has_no_effects(results, monitor.frozen):
        return None
    return Answered(call=call, results=results, operations=operations)


def _has_no_effects(results: Results, frozen: Sequence[str]) -> bool:
    """Tell whether a forward froze, kept and drew nothing, so that it does the same each time."""
    return not (frozen or results.effects.any)


def trace_example(call: Call, *, fix_sizes: bool) -> Capture:
    """Trace a call, without a cache of keys and values where that cannot be a result."""
    try:
        return trace(call, fix_sizes=fix_sizes)
    except CacheError:
        without = call.without_cache()
        if without is None:
            raise
    capture = trace(without, fix_sizes=fix_sizes)
    text = "the forward is called with use_cache=False, since its cache is an object that a loaded model cannot return"
    return replace(capture, caveats=(ExampleWarning(text), *capture.caveats))


def export(call: Call, results: Results, dynamic_shapes: Any) -> Capture:
    """Capture a call with `torch.export`.

    Args:
        call: The call.
        results: What `call.run` gave for the example.
        dynamic_shapes: For the wrapped call, whose arguments are all tensors.

    Raises:
        ConversionError: torch.export refused the module.
    """
    snapshot = Snapshot(call.module)  # torch.export leaves fakes in attributes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            for text in (
                r"The tensor attributes? .* assigned during export",
                r"A model attribute .* requires gradient",
            ):
                warnings.filterwarnings("ignore", text)
            with Replacing():
                program = torch.export.export(
                    _Flat(call.module, call.forward), call.tensors, dynamic_shapes=dynamic_shapes, strict=False
                )
            program = decompose(program)
    except Exception as error:
        text, _, _ = str(error).partition("The error above occurred when calling torch.export")
        raise ConversionError(f"torch.export could not capture the module: {first_lines(text)}") from error
    finally:
        snapshot.restore()
    repetition = repeat(call, results)
    return Capture(call=call, program=program, results=results, caveats=repetition.caveats, noise=repetition.noise)
