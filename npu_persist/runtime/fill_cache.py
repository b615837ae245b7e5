"""Compile a bundle into the compile cache: the process that `load` starts under `compile_timeout`."""

from __future__ import annotations

from pathlib import Path

from npu_persist.bundle.bundle import Bundle
from npu_persist.cache import CompileCache
from npu_persist.compilation.process.python import serve
from npu_persist.compilation.recipe import Recipe
from npu_persist.errors import CompilationError
from npu_persist.runtime.sources import FillRequest, Sources, find_compiled
from npu_persist.runtime.verification import Verification
from npu_persist.trust.policy import Policy


def fill_cache(request: FillRequest, *_: object) -> bool:
    """Compile a bundle and keep it in the compile cache."""
    bundle = Bundle.open(request.bundle)
    home = Path(request.home)
    cache = CompileCache(home)
    weights = bundle.manifest.weights.path
    with Verification("full", home) as verification:
        verification.start(bundle.file(weights), bundle.manifest.files[weights])
        recipe = Recipe(bundle, bundle.graph(request.graph), request.device, request.config, request.shapes)
        found = find_compiled(
            recipe, Sources(verification=verification, attached=(), policy=Policy(None, home), cache=cache)
        )
        verification.finish()
    if found.compiled is None:
        raise found.error or CompilationError(f"{recipe} could not be compiled")
    if found.compiled.pending is not None:
        found.compiled.pending.join()
    if recipe.key != request.key or cache.find(request.key) is None:
        raise CompilationError(
            f"{bundle.reference} was compiled for {request.device}, but could not be kept.\n{found.history}"
        )
    return True


if __name__ == "__main__":
    serve(fill_cache, FillRequest)
