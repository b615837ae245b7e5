"""Bundles by name and version: publishing, finding, listing and removing them."""

from __future__ import annotations

from npu_persist.store.folder import default_home
from npu_persist.store.lookup import StoredBundle
from npu_persist.store.store import Store

__all__ = ["Store", "StoredBundle", "default_home"]
