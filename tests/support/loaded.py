"""Bundles of `tests.support.graphs`, loaded once for a whole test file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npu_persist import load
from npu_persist.runtime.lanes import LENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist import Model
    from npu_persist.store import Store

LARGE = (LENT // 4 // 8, 8)
"""A shape of float32 that is read where it is."""


class Loader:
    """Loads each bundle of one store once, and publishes it before."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.models: dict[str, Model] = {}

    def __call__(
        self,
        publish: Callable[..., Any],
        *args: Any,
        name: str | None = None,
        device: str = "CPU",
        config: dict[str, Any] | None = None,
    ) -> Model:
        """Load what `publish(store, *args)` publishes; bundles that differ in `args` need a `name`."""
        key = f"{name or publish.__name__} {device} {config}"
        if key not in self.models:
            options = {} if name is None else {"name": name}
            reference = publish(self.store, *args, **options).reference
            self.models[key] = load(reference, device, config=config, store=self.store)
        return self.models[key]
