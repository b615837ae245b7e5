"""Find what `npu-persist persist module.path:factory` names, and call it.

The promise: a name that does not lead to a module is a usage error that says which part of it is wrong; what the user's
own code raises is shown as that, with its cause.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from npu_persist.errors import NpuPersistError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

TRAINING_SIDE = frozenset({"torch", "safetensors"})
"""What the `export` extra installs; that one of them is missing is not the user's code's fault."""

_EXPECTED = (
    "expected a torch.nn.Module, or a function without arguments that returns a module, (module, args) or "
    "(module, args, kwargs)"
)


class Made(NamedTuple):
    """What a factory gave: the module, and the example call if it gave one."""

    model: Any
    args: tuple[Any, ...] | None
    kwargs: dict[str, Any] | None


def make_model(target: str) -> Made:
    """Import `module.path:name`, call it unless it is a module already, and sort out what it returned.

    The current directory is importable, as under `python -m`.

    Raises:
        UsageError: The text has another form, nothing is there, or the factory returned something else.
        NpuPersistError: The user's own code raised; the cause is chained.
    """
    found = _find(target)
    if _is_module(found):
        return Made(found, None, None)
    if not callable(found):
        raise UsageError(f"{target}: {_EXPECTED}; got {_kind(found)}")
    try:
        made = found()
    except Exception as error:
        raise NpuPersistError(f"{target} raised {type(error).__name__}: {error}") from error
    return _sort_out(target, made)


def _find(target: str) -> Any:
    path, colon, name = target.partition(":")
    if not (colon and path and name) or path.endswith(".py"):
        raise UsageError(f"expected module.path:factory, such as mymodels.unet:make; got {target!r}")
    if os.getcwd() not in sys.path:  # noqa: PTH109 (sys.path holds strings)
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found: Any = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name in TRAINING_SIDE:
            raise
        if error.name is not None and (path == error.name or path.startswith(f"{error.name}.")):
            raise UsageError(
                f"{target}: there is no module {error.name!r}, neither installed nor in the current directory"
            ) from error
        raise NpuPersistError(f"importing {path} raised {type(error).__name__}: {error}") from error
    except Exception as error:
        raise NpuPersistError(f"importing {path} raised {type(error).__name__}: {error}") from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise UsageError(f"{target}: {path} has no {name!r}") from error
    return found


def _is_module(value: object) -> bool:
    # Who holds a module has imported torch; importing it here would cost seconds where it has nothing to find.
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _sort_out(target: str, made: Any) -> Made:
    if not isinstance(made, tuple):
        made = (made,)
    model, args, kwargs = (*made, None, None)[:3] if 1 <= len(made) <= 3 else (None, None, None)  # noqa: PLR2004 (the three forms)
    if not _is_module(model):
        raise UsageError(f"{target}: {_EXPECTED}; it returned {_kind(made if len(made) > 1 else made[0])}")
    if args is not None and not isinstance(args, (tuple, list)):
        raise UsageError(f"{target}: expected args as a tuple; it returned {_kind(args)}")
    if kwargs is not None and not isinstance(kwargs, dict):
        raise UsageError(f"{target}: expected kwargs as a dict; it returned {_kind(kwargs)}")
    return Made(model, None if args is None else tuple(args), kwargs)


def _kind(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_kind, value))})"
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def as_tensors(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return numpy arrays as torch tensors of their own memory, for the module that `make_model` gave."""
    torch: Any = sys.modules["torch"]
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
