from __future__ import annotations

import copy
import errno
import inspect
import pickle
import re

import pytest

from npu_persist import errors
from npu_persist.errors import NpuPersistError, Problem, StoreError


def _error_classes() -> list[type[NpuPersistError]]:
    return [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, NpuPersistError)]


def _with_attributes(kind: type[NpuPersistError]) -> NpuPersistError:
    keywords = [
        name
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    return kind("unet: expected 1, got 2", **{name: (5 if name == "errno" else f"<{name}>") for name in keywords})


@pytest.mark.parametrize("kind", _error_classes())
def test_survives_pickling_and_copying(kind: type[NpuPersistError]) -> None:
    error = _with_attributes(kind)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):  # noqa: S301 (our own)
        assert type(twin) is kind
        assert str(twin) == "unet: expected 1, got 2"
        assert vars(twin) == vars(error)
        assert getattr(twin, "errno", None) == getattr(error, "errno", None)


@pytest.mark.parametrize("kind", _error_classes())
def test_can_be_made_as_dask_distributed_makes_what_a_worker_raised(kind: type[NpuPersistError]) -> None:
    assert type(kind.__new__(kind, "unet: expected 1, got 2")) is kind


@pytest.mark.parametrize("kind", _error_classes())
def test_has_a_docstring_and_a_place_in_the_drawing(kind: type[NpuPersistError]) -> None:
    assert kind.__doc__
    assert errors.__doc__ is not None
    assert re.search(rf"\b{kind.__name__}\b", errors.__doc__)


def test_exit_codes_tell_the_kinds_apart() -> None:
    codes = {
        kind: kind.exit_code
        for kind in (
            errors.NpuPersistError,
            errors.UsageError,
            errors.NotFoundError,
            errors.IntegrityError,
            errors.IncompatibleError,
            errors.ParityError,
        )
    }
    assert list(codes.values()) == [1, 2, 3, 4, 5, 6]
    for kind in _error_classes():
        nearest = next(base for base in kind.__mro__ if base in codes)
        assert kind.exit_code == codes[nearest]


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.UsageError, ValueError),
        (errors.InputError, TypeError),
        (errors.BundleNotFoundError, FileNotFoundError),
        (errors.StoreError, OSError),
        (errors.HubError, OSError),
        (errors.HubNotFoundError, FileNotFoundError),
        (errors.MissingExtraError, ModuleNotFoundError),
    ],
)
def test_is_the_builtin_that_callers_expect(kind: type[NpuPersistError], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)


def test_store_error_reads_as_its_message_and_keeps_the_number() -> None:
    error = StoreError("publish unet: no space left", errno=errno.ENOSPC)
    assert str(error) == "publish unet: no space left"
    assert error.errno == errno.ENOSPC


def test_problem_reads_as_place_and_message() -> None:
    assert str(Problem("graphs[0].path", "missing")) == "graphs[0].path: missing"
    assert str(Problem("", "not JSON")) == "not JSON"
