"""The compile cache: what compilers made of graphs for this machine's devices; it may be deleted at any time.

The promise: an entry is there whole or not at all, and is found by the content of what it was made from, never by a
path or a time. What is damaged is put aside, never used and never in the way. Locks and holds only save work: nothing
is wrong where they do nothing. Neither numpy nor openvino is imported.

    cache = CompileCache(Store().home)
    entry = cache.find(key)
    if entry is None:
        with cache.claim(key, timeout=600), cache.stage() as staging:
            entry = cache.find(key)                 # another process may have been faster
            if entry is None:
                ...                                 # compile, and write staging / "model.blob"
                entry = cache.publish(artifact, staging)
"""

from __future__ import annotations

from npu_persist.cache.cache import QUOTA_VARIABLE, CompileCache
from npu_persist.cache.entry import Entry

__all__ = ["QUOTA_VARIABLE", "CompileCache", "Entry"]
