"""The compile cache: compiled artifacts of this machine, found by key. It may be deleted at any time."""

from __future__ import annotations

from npu_persist.cache.cache import QUOTA_VARIABLE, CompileCache
from npu_persist.cache.entry import CacheEntry

__all__ = ["QUOTA_VARIABLE", "CacheEntry", "CompileCache"]
