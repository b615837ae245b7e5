"""`history`: what each version changed, and what it costs on the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from npu_persist import history
from npu_persist.bundle.golden_records import Difference, Evaluation, Golden, Metric, Tolerance
from npu_persist.errors import BundleNotFoundError, InvalidNameError
from npu_persist.store import Store
from tests.support.bundles import GOLDEN, GRAPH, TINY_GRAPH, WEIGHTS, publish_tiny, tiny_files, tiny_manifest
from tests.support.graphs import publish_affine
from tests.support.loads import spoil

if TYPE_CHECKING:
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.bundle.graph_records import Graph
    from npu_persist.bundle.manifest import Manifest

OTHER = WEIGHTS[:-1] + b"x"


def publish(store: Store, graph: Graph = TINY_GRAPH, files: dict[str, bytes] | None = None, **changes: Any) -> Bundle:
    """Publish a tiny bundle with other fields in its manifest."""
    files = files or tiny_files()
    manifest: Manifest = replace(tiny_manifest(files=files), graphs=(graph,), **changes)
    with store.stage() as staging:
        for path, data in files.items():
            (staging / path).write_bytes(data)
        (staging / "manifest.json").write_bytes(manifest.to_json())
        return store.publish(staging)


def test_each_version_says_what_it_changed() -> None:
    store = Store()
    publish(store)
    publish(store)
    publish(store, files=tiny_files(weights=OTHER))
    publish(store, files=tiny_files(weights=OTHER, model=GRAPH * 2))
    publish(store)
    publish(store, graph=replace(TINY_GRAPH, outputs=(replace(TINY_GRAPH.outputs[0], dtype="float64"),)))
    publish(store, metadata={"epoch": 3})
    found = [entry.changed for entry in history("tiny")]
    assert found == ["first", "nothing", "weights", "graph", "both", "graph", "graph"]
    publish(store, metadata={"epoch": 4})
    assert history("tiny")[-1].changed == "rest"


def test_what_versions_share_counts_once() -> None:
    store = Store()
    first = publish(store)
    publish(store, files=tiny_files(weights=OTHER))
    one, two = history("tiny")
    files = len(GRAPH) + len(WEIGHTS) + len(GOLDEN)
    manifest = (first.path / "manifest.json").stat().st_size
    assert (one.size, one.added) == (files + manifest, files + manifest)  # model.bin is the weights file
    assert two.size == files + manifest
    assert two.added == len(OTHER) + manifest
    (first.path / "compiled").mkdir()
    (first.path / "compiled/blob").write_bytes(b"x" * 1000)
    assert history("tiny")[0].size == files + manifest + 1000


def test_the_loss_is_the_worst_output(store_home: object) -> None:
    assert store_home is not None
    store = Store()
    measured = (Difference("y", 0.5, 0.001, 0.9999), Difference("best", 1.0, 0.1, 0.9, 0.02))
    golden = Golden("golden.safetensors", Tolerance(0.02, 0.999), measured)
    publish(store, golden=golden)
    publish(store, golden=Golden("golden.safetensors", None, None))
    checked, unchecked = history("tiny")
    assert (checked.loss, checked.differences) == (0.02, measured)
    assert (unchecked.loss, unchecked.differences) == (None, None)


def test_metrics_and_activations() -> None:
    store, metrics = Store(), (Metric("accuracy", 0.5, 0.375),)
    golden = Golden("golden.safetensors", Tolerance(0.02, 0.999), (), Evaluation(1, (), metrics))
    publish(store, replace(TINY_GRAPH, precision="int8", activations="int8"), golden=golden)
    publish_tiny(store)
    quantized, plain = history("tiny")
    assert (quantized.metrics, quantized.precision) == (metrics, "int8, activations int8")
    assert (plain.metrics, plain.precision) == ((), "fp16")


def test_aliases_time_and_precision() -> None:
    store = Store()
    bundle = publish_tiny(store, alias="prod")
    store.alias("tiny:1", "dev")
    (entry,) = history("tiny", store=store.home)
    assert entry.aliases == ("dev", "prod")
    assert (entry.reference, entry.version, entry.created) == ("tiny:1", 1, bundle.created)
    assert (entry.precision, entry.problem) == ("fp16", None)


def test_a_damaged_version_is_in_it_with_its_problem() -> None:
    store = Store()
    for _ in range(3):
        publish_tiny(store)
    spoil(store.resolve("tiny:2").path / "manifest.json")
    _, damaged, after = history("tiny")
    assert damaged.problem is not None
    assert (damaged.precision, damaged.loss, damaged.changed, after.changed) == (None, None, None, None)


def test_a_link_that_leads_elsewhere_is_not_followed() -> None:
    bundle = publish_affine(Store())
    before = history("affine")[0].size
    (bundle.path / "up").symlink_to("..")
    (bundle.path / "passwd").symlink_to("/etc/passwd")
    assert history("affine")[0].size == before


@pytest.mark.parametrize(("name", "error"), [("absent", BundleNotFoundError), ("tiny:1", InvalidNameError)])
def test_only_names_that_are_there(name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        history(name)
