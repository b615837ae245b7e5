"""The verbs that keep a store in order: `tag`, `verify`, `remove`, `prune`.

The promise: each says what it changed, and what it was asked for but could not do is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import npu_persist
from npu_persist.bundle.reference import StoreReference, parse
from npu_persist.cli.errors import find_advice
from npu_persist.cli.output import format_size, format_table
from npu_persist.errors import BundleNotFoundError, IncompatibleError, IntegrityError, UsageError
from npu_persist.hub.pulled import resolve

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from npu_persist.cli.output import Output


def run_tag(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist tag REF ALIAS`, `npu-persist tag --remove NAME:ALIAS`."""
    store = npu_persist.Store(arguments.store)
    if arguments.remove:
        reference = parse(arguments.reference)
        if arguments.alias is not None or not isinstance(reference, StoreReference) or reference.alias is None:
            raise UsageError("expected `tag --remove NAME:ALIAS`, such as `npu-persist tag --remove unet:prod`")
        store.unalias(reference.name, reference.alias)
        output.show({"removed": str(reference)}, f"removed {reference}")
        return
    if arguments.alias is None:
        raise UsageError("expected `tag REF ALIAS`, such as `npu-persist tag unet:3 prod`")
    tagged = store.alias(arguments.reference, arguments.alias)
    output.show({"reference": tagged, "alias": arguments.alias}, f"{tagged} is {arguments.alias}")


def run_verify(arguments: argparse.Namespace, output: Output) -> int:
    """`npu-persist verify [REF]`: one bundle, or every version in the store, past those that fail."""
    store = npu_persist.Store(arguments.store)

    def verify(reference: str) -> list[str] | None:
        """Return who signed it, where that was asked for."""
        store.verify(reference)
        if not arguments.signed and arguments.key is None:
            return None
        return sorted({signed.signer for signed in npu_persist.verify_signature(reference, arguments.key, store=store)})

    if arguments.reference:
        bundle = resolve(store, arguments.reference)
        results = [_result(bundle.reference, bundle.size, None, verify(bundle.reference))]
        output.show(results, lambda: _verify_text(results, output))
        return 0
    # Not through `list`: it reads every manifest, and a damaged one is what we look for.
    references = [f"{name}:{version}" for name in store.names() for version in store.versions(name)]
    results, failures = _verify_all(store, references, verify)
    if not results:
        output.note(f"no bundles in {store.home}")
    output.show(results, lambda: _verify_text(results, output))
    for error in failures:
        output.error(str(error), find_advice(error))
    kinds = [kind for kind in (IntegrityError, IncompatibleError) if any(isinstance(error, kind) for error in failures)]
    return kinds[0].exit_code if kinds else 0


def run_remove(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist remove REF`."""
    removed = npu_persist.remove(arguments.reference, force=arguments.force, store=arguments.store)
    output.show({"removed": removed}, f"removed {removed}")


def run_prune(arguments: argparse.Namespace, output: Output) -> None:
    """`npu-persist prune`."""
    removed = [str(path) for path in npu_persist.prune(store=arguments.store)]
    output.show({"removed": removed}, "\n".join(f"removed {path}" for path in removed) or "nothing to prune")


def _verify_all(
    store: npu_persist.Store, references: list[str], verify: Callable[[str], list[str] | None]
) -> tuple[list[dict[str, Any]], list[IntegrityError | IncompatibleError]]:
    results: list[dict[str, Any]] = []
    failures: list[IntegrityError | IncompatibleError] = []
    for reference in references:
        size = None
        try:
            bundle = store.resolve(reference)
            size = bundle.size
            if bundle.version is not None:
                store.aliases(bundle.name)
            signers = verify(reference)
        except BundleNotFoundError:
            continue  # someone removed it meanwhile
        except (IntegrityError, IncompatibleError) as error:
            failures.append(error)
            results.append(_result(reference, size, error, None))
        else:
            results.append(_result(reference, size, None, signers))
    return results, failures


def _result(reference: str, size: int | None, error: Exception | None, signers: list[str] | None) -> dict[str, Any]:
    problem = None if error is None else str(error)
    return {"reference": reference, "ok": error is None, "size": size, "problem": problem, "signers": signers}


def _verify_text(results: list[dict[str, Any]], output: Output) -> str:
    if not results:
        return ""
    header, *rows = format_table(
        ["REFERENCE", "SIZE", "RESULT"],
        [
            [
                result["reference"],
                "?" if result["size"] is None else format_size(result["size"]),
                _outcome(result),
            ]
            for result in results
        ],
        right=["SIZE"],
    )
    return "\n".join([output.heading(header), *rows])


def _outcome(result: dict[str, Any]) -> str:
    if not result["ok"]:
        return "FAILED"
    return "ok" if result["signers"] is None else f"ok, signed by {', '.join(result['signers'])}"
