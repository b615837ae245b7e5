"""The store: where bundles live, by name and version.

The promise: a published version never changes, appears and disappears in one step, and its number is never given again;
readers never lock. `layout` draws the directory, `publish` says how a version comes into it.

    store = Store()
    with store.stage() as staging:
        ...                                         # write the files, then manifest.json
        bundle = store.publish(staging, alias="prod")
    store.resolve("unet:prod").path
"""

from __future__ import annotations

from npu_persist.store.entry import Entry
from npu_persist.store.layout import HOME_VARIABLE, default_home
from npu_persist.store.store import Store

__all__ = ["HOME_VARIABLE", "Entry", "Store", "default_home"]
