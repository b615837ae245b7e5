"""Every error this package raises on purpose, and the warnings.

The promise: bad input, a damaged file or a full disk comes out as one of these, whose message says what, where,
expected, got and what to do next. The same facts are attributes. Each class carries the `exit_code` that the command
line ends with, and inherits from the builtin that callers would expect. All of them can be pickled and copied.

    NpuPersistError                         1  failed
    ├── UsageError (ValueError)             2  usage
    │   ├── InvalidNameError
    │   ├── ReferenceFormatError
    │   ├── AmbiguousReferenceError
    │   ├── ExampleInputsError
    │   ├── PropertyError
    │   ├── TargetError
    │   ├── DynamicShapeError
    │   ├── ModelClosedError
    │   └── InputError (TypeError)
    ├── NotFoundError (FileNotFoundError)   3  not found
    │   ├── BundleNotFoundError
    │   ├── DeviceNotFoundError
    │   └── HubNotFoundError                   (a HubError too)
    ├── IntegrityError                      4  integrity
    │   ├── ManifestError
    │   ├── FileIntegrityError
    │   │   └── ArtifactError
    │   │       └── BlobError
    │   ├── GraphIntegrityError
    │   └── SignatureError
    ├── IncompatibleError                   5  incompatible
    │   ├── FormatVersionError
    │   └── OpenVINOVersionError
    ├── ConversionError                     1
    ├── ParityError                         1
    ├── CompilationError                    1
    │   ├── CompileTimeoutError (TimeoutError)
    │   ├── CompileMemoryError (MemoryError)
    │   ├── ToolchainError
    │   └── JobsError
    ├── InferenceError (RuntimeError)       1
    ├── HubError (OSError)                  1
    │   ├── HubAccessError
    │   └── HubConflictError
    ├── MissingExtraError                   1
    │       (ModuleNotFoundError)
    └── StoreError (OSError)                1

    FrozenControlFlowWarning (UserWarning)
    DeviceWarning (UserWarning)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self


class Problem(NamedTuple):
    """One thing that is wrong with a document."""

    location: str
    """Where, as a JSON path: `graphs[0].inputs[1].dtype`; empty for the document as a whole."""
    message: str
    """What was expected there and what was found."""

    def __str__(self) -> str:
        return f"{self.location}: {self.message}" if self.location else self.message


class NpuPersistError(Exception):
    """The root: catches everything this package raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(NpuPersistError, ValueError):
    """The caller asked for something that cannot be, whatever is on disk."""

    exit_code: ClassVar[int] = 2


class InvalidNameError(UsageError):
    """A bundle or alias name that does not work as a folder name on every platform, or a case twin of another."""


class ReferenceFormatError(UsageError):
    """A text that is no reference."""


class AmbiguousReferenceError(UsageError):
    """A digest prefix that several bundles share.

    Attributes:
        matches: References of the bundles that match, such as `unet:3`.
    """

    def __init__(self, message: str, *, matches: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.matches = matches


class ExampleInputsError(UsageError):
    """`persist` was given no example inputs and found none."""


class PropertyError(UsageError):
    """An OpenVINO property that no device knows, or a value that the device refuses."""


class TargetError(UsageError):
    """A text that names nothing that a compiled artifact can be for."""


class DynamicShapeError(UsageError):
    """A graph with axes of varying size, where the device wants fixed ones.

    Attributes:
        input: Name of the first input that has one.
        axis: The axis, from 0.
    """

    def __init__(self, message: str, *, input: str | None = None, axis: int | None = None) -> None:  # noqa: A002
        super().__init__(message)
        self.input = input
        self.axis = axis


class ModelClosedError(UsageError):
    """A model was used after `close`, or after its `with` block."""


class InputError(UsageError, TypeError):
    """A call that does not fit the persisted signature.

    Attributes:
        argument: Which argument, with its path inside nested structures.
        expected: What the signature says.
        got: What the caller gave.
        index: Which item of `Model.map` it was, from 0; None for a single call.
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
    """What was asked for is not there."""

    exit_code: ClassVar[int] = 3


class BundleNotFoundError(NotFoundError):
    """A name, version, alias or digest prefix that the store does not have, or a directory that is no bundle."""


class DeviceNotFoundError(NotFoundError):
    """OpenVINO does not know the device on this machine."""


class IntegrityError(NpuPersistError):
    """What is on disk is not what was persisted."""

    exit_code: ClassVar[int] = 4


class ManifestError(IntegrityError):
    """A manifest that is damaged, hostile or does not agree with itself.

    Attributes:
        problems: Every problem found, with its place in the document.
    """

    def __init__(self, message: str, *, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class FileIntegrityError(IntegrityError):
    """A bundle's file that is missing, is no regular file, or has another size or digest than the manifest says.

    Attributes:
        path: The file.
        expected: What the manifest says: `1024 bytes`, `blake3:…`, `a regular file`.
        got: What is on disk.
    """

    def __init__(
        self, message: str, *, path: str | None = None, expected: str | None = None, got: str | None = None
    ) -> None:
        super().__init__(message)
        self.path = path
        self.expected = expected
        self.got = got


class GraphIntegrityError(IntegrityError):
    """An IR that points outside of its weights file, or a weights file with a malformed header."""


class SignatureError(IntegrityError):
    """A signature that is missing where one is required, is of no known key, or does not fit what it is for."""


class ArtifactError(FileIntegrityError):
    """A file of a compiled artifact that is damaged, or is not what its `artifact.json` says."""


class BlobError(ArtifactError):
    """A compiled blob whose description of itself is damaged, truncated or of no known kind."""


class IncompatibleError(NpuPersistError):
    """The bundle is sound, but this installation cannot read or run it."""

    exit_code: ClassVar[int] = 5


class FormatVersionError(IncompatibleError):
    """A manifest of a format version that this package does not read.

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
        module_path: Path of the submodule, such as `encoder.layers.3`, where it is known.
        operation: The operation that stood in the way, where it is known.
    """

    def __init__(self, message: str, *, module_path: str | None = None, operation: str | None = None) -> None:
        super().__init__(message)
        self.module_path = module_path
        self.operation = operation


class ParityError(NpuPersistError):
    """The written bundle does not answer as the module did, or the module's answer cannot be compared.

    Attributes:
        output: The output that is furthest off.
        differences: The measured differences (`manifest.Difference`) of all outputs.
        layer: The first layer where the two part, as far as it could be found.
    """

    def __init__(
        self,
        message: str,
        *,
        output: str | None = None,
        differences: tuple[Any, ...] = (),
        layer: str | None = None,
    ) -> None:
        super().__init__(message)
        self.output = output
        self.differences = differences
        self.layer = layer


class CompilationError(NpuPersistError):
    """OpenVINO refused to read or compile a sound bundle."""


class CompileTimeoutError(CompilationError, TimeoutError):
    """A compilation took longer than `compile_timeout` allows, and was ended."""


class CompileMemoryError(CompilationError, MemoryError):
    """A compilation held more memory than its limit allows, and was ended."""

    def __new__(cls, *args: object) -> Self:
        """Make one as other errors are made: MemoryError's own way takes no subclass, and dask.distributed asks."""
        return Exception.__new__(cls, *args)


class ToolchainError(CompilationError):
    """No toolchain can compile for a target here, or the one that could is damaged or of another OpenVINO version."""


class JobsError(CompilationError):
    """Some of several compilations failed; the others are done and attached.

    Attributes:
        results: What came of each (`CompileResult`), in the order in which they were asked for.
    """

    def __init__(self, message: str, *, results: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.results = results


class InferenceError(NpuPersistError, RuntimeError):
    """The device failed while it ran an inference on inputs of the right dtype and shape.

    Values may be the cause, such as a size that does not fit. After a failure load the model again if it goes on to
    fail: OpenVINO 2026.4 on the CPU may. And do not repeat the same inputs: a Reshape that is asked for the same
    impossible shape a second time answers there with the shape that it had before.

    Attributes:
        index: Which item of `Model.map` it was, from 0; None for a single call.
    """

    index: int | None = None


class HubError(NpuPersistError, OSError):
    """The hub refused, or cannot be reached.

    Attributes:
        repo_id: The repository, `org/unet`.
        revision: Branch, tag or commit, where one was asked for.
        status: The HTTP status; None where there was no answer.
    """

    def __init__(
        self, message: str, *, repo_id: str | None = None, revision: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.repo_id = repo_id
        self.revision = revision
        self.status = status


class HubNotFoundError(HubError, NotFoundError):
    """The hub has no such repository, revision or file, or does not show it to this token."""


class HubAccessError(HubError):
    """The hub wants a token, or the one that was sent does not allow this."""


class HubConflictError(HubError):
    """The hub is not as it was when it was looked at: the branch moved, or the tag is on another commit."""


class MissingExtraError(NpuPersistError, ModuleNotFoundError):
    """A package that comes with one of the extras is not installed.

    Attributes:
        extra: The extra, as in `pip install 'npu_persist[extra]'`.
    """

    def __init__(self, message: str, *, extra: str | None = None, name: str | None = None) -> None:
        super().__init__(message, name=name)
        self.extra = extra


class StoreError(NpuPersistError, OSError):
    """The file system refused a change of the store: disk full, no permission, a file in use.

    `__cause__` is the operating system's own error, and `errno` is its number.
    """

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError keeps errno outside of __dict__ and would lose it.
        return _restore_store_error, (type(self), str(self), self.errno), self.__dict__


def _restore_store_error(kind: type[StoreError], message: str, errno: int | None) -> StoreError:
    return kind(message, errno=errno)


class FrozenControlFlowWarning(UserWarning):
    """Tracing took one branch of a condition on data, and the persisted graph always takes it."""


class DeviceWarning(UserWarning):
    """A model runs on another device than the one that was asked for."""
