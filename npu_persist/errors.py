"""Every error this package raises on purpose, and its warnings.

The message says what happened and what to do next; the same facts are attributes. Each class has the `exit_code` of
the command line, and derives from the builtin that callers would expect. All can be pickled and copied.

    NpuPersistError                                   exit code 1
    ├── UsageError (ValueError)                                 2
    │   ├── InvalidNameError, ReferenceFormatError, AmbiguousReferenceError, ExampleInputsError,
    │   ├── PropertyError, TargetError, DynamicShapeError, ModelClosedError
    │   └── InputError (TypeError)
    ├── NotFoundError (FileNotFoundError)                       3
    │   └── BundleNotFoundError, DeviceNotFoundError, HubNotFoundError (a HubError too)
    ├── IntegrityError                                          4
    │   ├── ManifestError, GraphIntegrityError, SignatureError, OriginError, RollbackError
    │   └── FileIntegrityError ── ArtifactError ── BlobError, WeightsInUseError
    ├── IncompatibleError                                       5
    │   └── FormatVersionError, OpenVINOVersionError
    ├── ParityError                                             6
    ├── ConversionError
    │   └── RefreshError
    ├── CompilationError
    │   ├── ToolchainError, JobsError
    │   └── CompileCrashError, CompileTimeoutError (TimeoutError), CompileMemoryError (MemoryError)
    ├── InferenceError (RuntimeError)
    ├── StateError ── StateCapacityError
    ├── HubError (OSError) ── HubAccessError, HubConflictError
    ├── MissingExtraError (ModuleNotFoundError)
    └── StoreError (OSError)

    PersistWarning (UserWarning)
    └── FrozenControlFlowWarning, StateWarning, RandomnessWarning, PrecisionWarning, ExampleWarning
    DeviceWarning (UserWarning)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self


class Problem(NamedTuple):
    """One problem in a document, with its place as a JSON path: `graphs[0].inputs[1].dtype`; "" for all of it."""

    location: str
    message: str

    def __str__(self) -> str:
        return f"{self.location}: {self.message}" if self.location else self.message


class NpuPersistError(Exception):
    """The base class of all errors that this package raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(NpuPersistError, ValueError):
    """An argument is invalid, regardless of the files on disk."""

    exit_code: ClassVar[int] = 2


class InvalidNameError(UsageError):
    """A name or alias is not a portable folder name, or differs from another only in case."""


class ReferenceFormatError(UsageError):
    """Malformed reference."""


class AmbiguousReferenceError(UsageError):
    """Several bundles share the digest prefix.

    Attributes:
        matches: References of the bundles, such as `unet:3`.
    """

    def __init__(self, message: str, *, matches: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.matches = matches


class ExampleInputsError(UsageError):
    """`persist` was given no example inputs and found none."""


class PropertyError(UsageError):
    """An OpenVINO property is unknown to the device, or its value is invalid."""


class TargetError(UsageError):
    """Not a valid compilation target."""


class DynamicShapeError(UsageError):
    """A graph has dynamic axes, but the device needs fixed sizes.

    Attributes:
        input: Name of the first input with such an axis.
        axis: The axis, from 0.
    """

    def __init__(self, message: str, *, input: str | None = None, axis: int | None = None) -> None:  # noqa: A002
        super().__init__(message)
        self.input = input
        self.axis = axis


class ModelClosedError(UsageError):
    """A model was used after `close`, or after its `with` block."""


class InputError(UsageError, TypeError):
    """A call does not fit the persisted signature.

    Attributes:
        argument: The argument, with its path inside nested structures.
        expected: What the signature requires.
        got: What the caller passed.
        index: Index of the item of `Model.map`, from 0; None for a single call.
    """

    index: int | None = None

    def __init__(
        self, message: str, *, argument: str | None = None, expected: str | None = None, got: str | None = None
    ) -> None:
        super().__init__(message)
        self.argument = argument
        self.expected = expected
        self.got = got


class NotFoundError(NpuPersistError, FileNotFoundError):
    """A named bundle, graph, device or file does not exist."""

    exit_code: ClassVar[int] = 3


class BundleNotFoundError(NotFoundError):
    """The store has no such name, version, alias or digest prefix, or the directory is not a bundle."""


class DeviceNotFoundError(NotFoundError):
    """OpenVINO finds no such device on this machine."""


class IntegrityError(NpuPersistError):
    """A file on disk differs from what was persisted, or does not come from a trusted origin."""

    exit_code: ClassVar[int] = 4


class ManifestError(IntegrityError):
    """A manifest is damaged, hostile or inconsistent.

    Attributes:
        problems: Every problem found, with its place in the document.
    """

    def __init__(self, message: str, *, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class FileIntegrityError(IntegrityError):
    """A file is missing, is not a regular file, or its size or digest differs from the manifest.

    Attributes:
        path: The file.
        expected: What it should be: `1024 bytes`, `blake3:…`, `a regular file`.
        got: What it is.
    """

    def __init__(
        self, message: str, *, path: str | None = None, expected: str | None = None, got: str | None = None
    ) -> None:
        super().__init__(message)
        self.path = path
        self.expected = expected
        self.got = got

    @classmethod
    def mismatch(cls, path: object, expected: str, got: str, advice: str) -> Self:
        """Return the error for a file that is not what it should be, with what to do next."""
        return cls(f"{path}: expected {expected}; got {got}. {advice}", path=str(path), expected=expected, got=got)


class GraphIntegrityError(IntegrityError):
    """A graph has content that `persist` never writes and that could crash the process; or a weights file is malformed.

    Attributes:
        problem: What was expected, where, and what was found; empty if no rule of this package is broken.
    """

    def __init__(self, message: str, *, problem: str = "") -> None:
        super().__init__(message)
        self.problem = problem


class SignatureError(IntegrityError):
    """A required signature is missing or invalid, or its key is unknown."""


class OriginError(IntegrityError):
    """A bundle comes from another repository than the store's versions of that name.

    Attributes:
        name: The name in the store.
        owner: The origin of its versions: `org/unet`, `https://hub.example.com/org/unet`, `this machine`.
        source: The origin of the refused bundle.
    """

    def __init__(
        self, message: str, *, name: str | None = None, owner: str | None = None, source: str | None = None
    ) -> None:
        super().__init__(message)
        self.name = name
        self.owner = owner
        self.source = source


class RollbackError(IntegrityError):
    """A bundle on a hub was signed earlier than the one in the store, or no known key signed it.

    Attributes:
        newer: The version in the store: `unet:3`.
        newer_signed_at: The time when that was signed: `2026-11-21T07:40:04Z`.
        signed_at: The time when the refused one was signed; None if no known key signed it.
    """

    def __init__(
        self,
        message: str,
        *,
        newer: str | None = None,
        newer_signed_at: str | None = None,
        signed_at: str | None = None,
    ) -> None:
        super().__init__(message)
        self.newer = newer
        self.newer_signed_at = newer_signed_at
        self.signed_at = signed_at


class ArtifactError(FileIntegrityError):
    """A file of a compiled artifact is damaged, or differs from its `artifact.json`."""


class BlobError(ArtifactError):
    """The header of a compiled blob is damaged, truncated or of an unknown kind."""


class WeightsInUseError(ArtifactError):
    """The process already uses the same blob with another model's weights."""


class IncompatibleError(NpuPersistError):
    """The bundle is intact, but this installation cannot read or run it."""

    exit_code: ClassVar[int] = 5


class FormatVersionError(IncompatibleError):
    """A manifest has a format version that this package does not read.

    Attributes:
        found: The manifest's format version.
        supported: The format version that this package reads.
    """

    def __init__(self, message: str, *, found: str | None = None, supported: str | None = None) -> None:
        super().__init__(message)
        self.found = found
        self.supported = supported


class OpenVINOVersionError(IncompatibleError):
    """The installed OpenVINO is older than the one that wrote the bundle.

    Attributes:
        found: The installed version.
        required: The version that the bundle needs.
    """

    def __init__(self, message: str, *, found: str | None = None, required: str | None = None) -> None:
        super().__init__(message)
        self.found = found
        self.required = required


class ConversionError(NpuPersistError):
    """The module cannot be traced or converted.

    Attributes:
        module_path: Path of the submodule, such as `encoder.layers.3`, if known.
        operation: The operation that failed, if known.
    """

    def __init__(self, message: str, *, module_path: str | None = None, operation: str | None = None) -> None:
        super().__init__(message)
        self.module_path = module_path
        self.operation = operation


class RefreshError(ConversionError):
    """A bundle's graph does not fit this module or its weights: persist the module instead.

    Attributes:
        tensor: The parameter or buffer that does not fit, if there is one.
    """

    def __init__(self, message: str, *, tensor: str | None = None) -> None:
        super().__init__(message)
        self.tensor = tensor


class ParityError(NpuPersistError):
    """The written bundle's outputs differ from the module's, or cannot be compared with them.

    Attributes:
        output: The output with the largest difference.
        differences: The measured differences (`Difference`) of all outputs.
        layer: The first layer that differs, if it could be found.
    """

    exit_code: ClassVar[int] = 6

    def __init__(
        self, message: str, *, output: str | None = None, differences: tuple[Any, ...] = (), layer: str | None = None
    ) -> None:
        super().__init__(message)
        self.output = output
        self.differences = differences
        self.layer = layer


class CompilationError(NpuPersistError):
    """OpenVINO failed to read or compile an intact bundle."""


class CompileCrashError(CompilationError):
    """The compiling process crashed in OpenVINO, or the system killed it for lack of memory."""


class CompileTimeoutError(CompilationError, TimeoutError):
    """A compilation exceeded its time limit and was ended."""


class CompileMemoryError(CompilationError, MemoryError):
    """A compilation exceeded its memory limit and was ended."""

    def __new__(cls, *args: object) -> Self:
        """Create one as other errors are created: MemoryError's own `__new__` takes no subclass."""
        return Exception.__new__(cls, *args)


class ToolchainError(CompilationError):
    """No toolchain here compiles for the target, or the toolchain is damaged or for another OpenVINO version."""


class JobsError(CompilationError):
    """Some of several compilations failed; the others are done and attached.

    Attributes:
        results: The `CompileResult` of each, in the order of the request.
    """

    def __init__(self, message: str, *, results: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.results = results


class InferenceError(NpuPersistError, RuntimeError):
    """The device failed while it ran an inference on inputs of the right dtype and shape.

    Values may be the cause, such as a size that does not fit. OpenVINO 2026.4 on the CPU may keep failing; load the
    model again in that case. Do not repeat the same inputs: a Reshape that gets the same impossible shape a second time
    returns its previous shape.

    Attributes:
        index: Index of the item of `Model.map`, from 0; None for a single call.
    """

    index: int | None = None


class StateError(NpuPersistError):
    """The state of a model or session is undefined, because an inference failed halfway: `reset` it."""


class StateCapacityError(StateError):
    """The call would exceed the capacity of a state; it was not run, and the state is unchanged.

    Attributes:
        state: The state's name.
        capacity: Its largest size.
        size: Its current size.
    """

    def __init__(
        self, message: str, *, state: str | None = None, capacity: int | None = None, size: int | None = None
    ) -> None:
        super().__init__(message)
        self.state = state
        self.capacity = capacity
        self.size = size


class HubError(NpuPersistError, OSError):
    """The hub rejected a request, or cannot be reached.

    Attributes:
        repo_id: The repository, `org/unet`.
        revision: Branch, tag or commit, if one was requested.
        status: The HTTP status; None if there was no response.
    """

    def __init__(
        self, message: str, *, repo_id: str | None = None, revision: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.repo_id = repo_id
        self.revision = revision
        self.status = status


class HubNotFoundError(HubError, NotFoundError):
    """The hub has no such repository, revision or file, or this token cannot see it."""


class HubAccessError(HubError):
    """The hub requires a token, or the token does not permit this."""


class HubConflictError(HubError):
    """The hub changed meanwhile: the branch moved, or the tag points to another commit."""


class MissingExtraError(NpuPersistError, ModuleNotFoundError):
    """A package that one of the extras installs is missing.

    Attributes:
        extra: The extra, as in `pip install 'npu_persist[extra]'`.
    """

    def __init__(self, message: str, *, extra: str | None = None, name: str | None = None) -> None:
        super().__init__(message, name=name)
        self.extra = extra


class StoreError(NpuPersistError, OSError):
    """The file system reported an error: disk full, no permission, a file in use. `errno` is the system's number."""

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError keeps errno outside of __dict__ and would lose it.
        return _restore_store_error, (type(self), str(self), self.errno), self.__dict__


def _restore_store_error(kind: type[StoreError], message: str, errno: int | None) -> StoreError:
    return kind(message, errno=errno)


class PersistWarning(UserWarning):
    """The loaded model may give other results than the module; the manifest records the text."""


class FrozenControlFlowWarning(PersistWarning):
    """The trace froze a branch, a loop or a size that depends on the inputs."""


class StateWarning(PersistWarning):
    """The module changes itself in its forward, which the loaded model does not."""


class RandomnessWarning(PersistWarning):
    """The module draws random numbers in its forward."""


class PrecisionWarning(PersistWarning):
    """Rounding, or a limit of OpenVINO's integers, can change discrete results."""


class ExampleWarning(PersistWarning):
    """`persist` chose the example call, or an argument of it, and with it the shapes of the loaded model."""


class DeviceWarning(UserWarning):
    """A model runs on another device than the requested one, or on one that is less exact."""
