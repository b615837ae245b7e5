"""`persist(..., targets=[...])`: what is published is compiled ahead of time at once.

The promise: what cannot be compiled for a target is said before the module is traced, as far as it is known then; a
compilation that fails leaves the bundle published, and says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npu_persist.bundle.buckets import require_bounds
from npu_persist.compilation.compile import check_toolchain, compile_bundle, read_targets
from npu_persist.conversion.dynamic import input_ports
from npu_persist.errors import NpuPersistError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npu_persist.artifact.target import Target
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.conversion.capture import Call
    from npu_persist.conversion.dynamic import Axes
    from npu_persist.progress import Reporter
    from npu_persist.store import Store


def check_targets(targets: str | Sequence[str] | None) -> tuple[Target, ...]:
    """Return the targets, none for None.

    Raises:
        TargetError: One of them is none.
        ToolchainError: Nothing here can compile for one of them.
    """
    if targets is None:
        return ()
    wanted = read_targets(targets)
    check_toolchain(wanted, None)
    return wanted


def check_axes(name: str, call: Call, axes: Axes, targets: Sequence[Target]) -> None:
    """Refuse axes without a largest size for a target that wants fixed sizes.

    Raises:
        DynamicShapeError: There is one.
    """
    for target in targets:
        if target.kind == "NPU":
            require_bounds(input_ports(call, axes), name, str(target))


def compile_published(bundle: Bundle, targets: Sequence[Target], store: Store, reporter: Reporter) -> None:
    """Compile a bundle that has just been published, as the reporter's stage.

    Raises:
        NpuPersistError: What `compile` raises; the message says that the bundle is there all the same.
    """
    try:
        with reporter.stage("compile") as stage:
            compile_bundle(bundle.reference, [*map(str, targets)], progress=lambda *_: stage.update(), store=store)
    except NpuPersistError as error:
        again = " ".join(f"--target {target}" for target in targets)
        command = f"npu-persist compile {bundle.reference} {again}"
        error.args = (f"{bundle.reference} is published, but not compiled; to try again: `{command}`. {error}",)
        raise
