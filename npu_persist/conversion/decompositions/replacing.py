"""A function mode that replaces calls which OpenVINO's frontend converts for other arguments, but not for these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.overrides import TorchFunctionMode

from npu_persist.conversion.decompositions import arguments, complex_numbers, embeddings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TABLES = (arguments.REPLACEMENTS, complex_numbers.REPLACEMENTS, embeddings.REPLACEMENTS)
"""By a function's bare name; each returns NotImplemented where the call can stay as it is."""


class Replacing(TorchFunctionMode):
    """Replaces calls for as long as it is entered."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":  # a property, such as Tensor.mH
            name = getattr(getattr(func, "__self__", None), "__name__", name)
        for table in TABLES:
            replace = table.get(name)
            if replace is None:
                continue
            # torch calls its first argument `input` where it takes it by keyword.
            first = (kwargs["input"],) if "input" in kwargs else ()
            rest = {key: value for key, value in kwargs.items() if key != "input"}
            if (result := replace(func, *first, *args, **rest)) is not NotImplemented:
                return result
        return func(*args, **kwargs)
