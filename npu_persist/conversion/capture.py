"""A module's forward, captured as a program that OpenVINO's frontend can convert."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.jit._trace import TracerWarning

from npu_persist.bundle.manifest import Signature
from npu_persist.compilation.compiler_errors import first_lines
from npu_persist.conversion.monitor import watch_forward
from npu_persist.conversion.structure import describe_parameters
from npu_persist.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist.conversion.call import Call, Results


@dataclass(frozen=True, eq=False)
class Capture:
    """One call as a program of torch's, with what the forward gave and did.

    Attributes:
        call: The call.
        program: Takes and gives nothing but the call's tensors.
        results: What torch gave for the example.
        warnings: Where the program differs from the module: branches and state that the trace froze.
    """

    call: Call
    program: torch.jit.ScriptModule | torch.export.ExportedProgram
    results: Results
    warnings: tuple[str, ...]

    @property
    def signature(self) -> Signature:
        """How the module is called and what it gives."""
        return Signature(describe_parameters(self.call.module.forward), self.call.arguments, self.results.tree)


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
    with watch_forward(call.module, copies) as monitor, warnings.catch_warnings():
        for category in (TracerWarning, DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        forwards: list[Results] = []

        def forward(tensors: tuple[torch.Tensor, ...]) -> Results:
            forwards.append(call.forward(tensors, monitor.is_size if fix_sizes else None))
            return forwards[-1]

        program: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
            _Flat(call.module, forward), tuple(copies), check_trace=False, strict=False
        )
        results = forwards[-1]
        state = [
            f"output {name} depends on what the forward writes into {', '.join(monitor.changed)}; each call of the "
            "loaded model starts from the values at the time of persist"
            for name, tensor in zip(results.names, results.tensors, strict=True)
            if monitor.depends_on_state(tensor)
        ]
        return Capture(call, program, results.detached(monitor), (*monitor.frozen, *state))


def export(call: Call, results: Results, dynamic_shapes: Any) -> Capture:
    """Capture a call with `torch.export`.

    Args:
        call: The call.
        results: What `call.run` gave for the example.
        dynamic_shapes: For the wrapped call, whose arguments are all tensors.

    Raises:
        ConversionError: torch.export refused the module.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.export.export(
                _Flat(call.module, call.forward), call.tensors, dynamic_shapes=dynamic_shapes, strict=False
            )
    except Exception as error:
        raise ConversionError(f"torch.export could not capture the module: {first_lines(str(error))}") from error
    return Capture(call, program, results, ())
