"""What the command line says and returns for each error: one table from class to advice.

The promise: every error ends as one `error:` text on stderr and an exit code that scripts can tell apart. A traceback
shows only under NPU_PERSIST_TRACEBACK=1.

    0  done              4  integrity: not what was persisted
    1  failed            5  incompatible: sound, but not for this installation
    2  usage           130  interrupted
    3  not found
"""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING

from npu_persist import errors
from npu_persist.cli.factory import TRAINING_SIDE

if TYPE_CHECKING:
    from npu_persist.cli.output import Output

EXIT_FAILED = 1
"""What an error that is none of ours ends with."""

EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

TRACEBACK_VARIABLE = "NPU_PERSIST_TRACEBACK"
"""Environment variable that shows tracebacks."""

ADVICE: dict[type[BaseException], str] = {
    errors.AmbiguousReferenceError: "give more digits; `npu-persist list --json` shows whole digests",
    errors.ExampleInputsError: (
        "here: let the factory return (module, args) or (module, args, kwargs), or pass --inputs FILE.npz"
    ),
    errors.BundleNotFoundError: "--store or NPU_PERSIST_HOME chooses another store",
    errors.DeviceNotFoundError: "--device CPU works on every machine; `npu-persist doctor` says what the others lack",
    errors.IntegrityError: (
        "do not use this bundle: fetch or persist it again; `npu-persist remove` takes it out of the store"
    ),
    errors.ArtifactError: (
        "`npu-persist cache verify --repair` puts damaged compiled artifacts aside; they are compiled again"
    ),
    errors.FormatVersionError: "upgrade: python -m pip install --upgrade npu_persist",
    errors.OpenVINOVersionError: "upgrade: python -m pip install --upgrade openvino",
    errors.ParityError: (
        "--precision fp32 stays closer to torch, --tolerance allows a larger difference, --no-check measures none"
    ),
    errors.ConversionError: f"{TRACEBACK_VARIABLE}=1 shows where in the module it came from",
    errors.ToolchainError: "`npu-persist toolchain list` shows every way to the NPU's compiler and what it lacks",
    errors.CompilationError: (
        "try the CPU (--device CPU, --target CPU); if that works, the other device's compiler refused the graph"
    ),
    errors.CompileTimeoutError: "allow more time: --timeout with `compile`, --compile-timeout with `run`",
    errors.CompileMemoryError: "allow more memory (--memory-limit), or compile on a machine that has more",
    errors.JobsError: "`npu-persist compile` with the targets that failed tries those again",
    errors.SignatureError: (
        "ask whoever signs for the public key; `npu-persist keys add NAME FILE` makes it known, `npu-persist keys "
        "list` shows those that are"
    ),
    errors.HubError: "check the network, HF_ENDPOINT, HF_HUB_OFFLINE and the proxy, and try again",
    errors.HubNotFoundError: (
        "check the spelling, --revision and HF_ENDPOINT; a private repository looks missing without a token (`hf auth "
        "login`, or HF_TOKEN)"
    ),
    errors.HubAccessError: "`hf auth login` or HF_TOKEN gives a token; `hf auth whoami` says whose is in use",
    errors.HubConflictError: "look at what is there now: `npu-persist pull`, then push again",
    errors.MissingExtraError: "extras hold what not every program needs; without this one all other verbs work",
    errors.StoreError: "check free space and permissions; `npu-persist prune` removes what crashed publishes left",
}
"""Error class → what to do next on the command line; the nearest class in the error's ancestry counts."""


def report(error: BaseException, output: Output) -> int:
    """Show an error and return the exit code for it."""
    if isinstance(error, KeyboardInterrupt):
        output.error("interrupted")
        return EXIT_INTERRUPTED
    if os.environ.get(TRACEBACK_VARIABLE, "0") not in {"", "0"}:
        output.note("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, errors.NpuPersistError):
        output.error(str(error), find_advice(error))
        return error.exit_code
    if isinstance(error, ModuleNotFoundError) and error.name in TRAINING_SIDE:
        output.error(
            f"persist needs {error.name}, which is not installed here", "python -m pip install 'npu_persist[export]'"
        )
        return EXIT_FAILED
    output.error(f"{type(error).__name__}: {error}", f"{TRACEBACK_VARIABLE}=1 shows where it came from")
    return EXIT_FAILED


def find_advice(error: BaseException) -> str | None:
    """Return the table's advice for an error, None where its message says all."""
    return next((ADVICE[kind] for kind in type(error).__mro__ if kind in ADVICE), None)
