"""Compile a bundle into the compile cache, in the process that `load` starts for `compile_timeout` or without trust."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from npu_persist.bundle.verification import Verification
from npu_persist.cache import CompileCache
from npu_persist.compilation.process.python import serve
from npu_persist.errors import CompilationError, StoreError
from npu_persist.runtime.sources import FillRequest, Sources, find_compiled
from npu_persist.trust.policy import Policy


def fill_cache(request: FillRequest, *_: object) -> str:
    """Compile a bundle and keep it in the compile cache; return "", or why it could not be kept."""
    recipe = request.recipe.open()
    bundle, home = recipe.bundle, Path(request.home)
    cache = CompileCache(home)
    weights = bundle.manifest.weights.path
    with Verification("full", home) as verification:
        verification.start(recipe.weights, bundle.manifest.files[weights])
        policy = Policy(trust=True, home=home)
        found = find_compiled(
            recipe,
            Sources(verification=verification, attached=(), policy=policy, cache=cache, is_tried=request.is_tried),
        )
        verification.finish()
    if found.compiled is None:
        raise found.error or CompilationError(f"{recipe} could not be compiled")
    if found.compiled.pending is not None:
        found.compiled.pending.join()
    with suppress(StoreError):
        if recipe.key == request.key and cache.find(request.key) is not None:
            return ""
    return f"{bundle.reference} was compiled for {recipe.device}, but could not be cached.\n{found.history}"


if __name__ == "__main__":
    serve(fill_cache, FillRequest)
