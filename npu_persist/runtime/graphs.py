"""A loaded bundle of several graphs: its models by name."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, NoReturn

from npu_persist.errors import UsageError
from npu_persist.runtime.model import Model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from npu_persist.bundle.bundle import Bundle

_OF_ONE = frozenset({"graph", *("_expected", "_limits", "_options", "_plan", "_report", "_requests", "_symbols")})
"""What a `Model` has of its graph."""


class GraphsModel(Model):
    """The result of `load` for a bundle with several graphs: see `Model.graphs`; anything else raises a UsageError."""

    def __init__(self, bundle: Bundle, models: Mapping[str, Model]) -> None:
        """Hold the models of all graphs; use `npu_persist.load` instead."""
        self.bundle = bundle
        self._models = dict(models)

    @property
    def graphs(self) -> Mapping[str, Model]:
        """The models of the bundle's graphs, by name."""
        return dict(self._models)

    @property
    def buckets(self) -> NoReturn:
        """Not known: each graph has its own."""
        raise self._needs_one()

    def close(self) -> None:
        """Close the models of all graphs."""
        with ExitStack() as stack:
            for model in self._models.values():
                stack.callback(model.close)

    def __getattr__(self, name: str) -> NoReturn:
        """Say which graphs there are, where one alone is asked for."""
        if name in _OF_ONE:
            raise self._needs_one()
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _needs_one(self) -> UsageError:
        names = ", ".join(self._models)
        first = next(iter(self._models))
        return UsageError(
            f"{self.bundle.reference} has several graphs, {names}: use model.graphs[{first!r}], or load one with "
            f"graph={first!r}"
        )

    def __repr__(self) -> str:
        return f"<Model {self.bundle.reference} with the graphs {', '.join(self._models)}>"
