"""A bundle of several graphs: loaded whole or one at a time, from one weights file that is read once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import npu_persist
from npu_persist.errors import FileIntegrityError, ModelClosedError, NotFoundError, UsageError
from npu_persist.files.digest import digest_mapped
from tests.support.graphs import GRID, publish_affine
from tests.support.second_device import SECOND
from tests.support.two_graphs import ANSWERS, WEIGHT, publish_two

if TYPE_CHECKING:
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.store import Store

OTHER = np.linspace(-3, 7, 6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def bundle(store: Store) -> Bundle:
    return publish_two(store)


def test_the_models_of_all_graphs_are_there_by_name(store: Store, bundle: Bundle) -> None:
    with npu_persist.load("two", "CPU", store=store) as model:
        assert list(model.graphs) == ["scale", "shift"]
        assert model.bundle.digest == bundle.digest
        assert np.array_equal(model.graphs["scale"](OTHER), OTHER * WEIGHT)
        assert np.array_equal(model.graphs["shift"](OTHER), OTHER + WEIGHT)
        assert [one.report.graph for one in model.graphs.values()] == ["scale", "shift"]
        assert "two:1 shift for CPU" in str(model.graphs["shift"].report)
        assert "scale, shift" in repr(model)
        assert "two:1 scale (x:" in repr(model.graphs["scale"])
        models = model.graphs
    for one in models.values():
        with pytest.raises(ModelClosedError):
            one(OTHER)


def test_one_graph_is_a_model_like_any_other(store: Store, bundle: Bundle) -> None:
    with npu_persist.load("two", "CPU", graph="shift", store=store) as model:
        assert model.graph == bundle.graph("shift")
        assert np.array_equal(model(OTHER), OTHER + WEIGHT)
        assert model.graphs == {"shift": model}
        model.warm_up()
    with pytest.raises(NotFoundError, match="has no graph 'other'; it has scale, shift"):
        npu_persist.load("two", "CPU", graph="other", store=store)


def test_a_bundle_of_one_graph_has_it_by_name_too(store: Store) -> None:
    publish_affine(store)
    for graph in (None, "main"):
        with npu_persist.load("affine", "CPU", graph=graph, store=store) as model:
            assert model.graphs == {"main": model}
            assert model.report.graph is None


ONE_ONLY: dict[str, Any] = {
    "a call": lambda model: model(GRID),
    "infer": lambda model: model.infer([GRID]),
    "infer by name": lambda model: model.infer({"x": GRID}),
    "submit": lambda model: model.submit(GRID),
    "map": lambda model: model.map([GRID]),
    "start": lambda model: model.start(GRID),
    "warm_up": lambda model: model.warm_up(),
    "profile": lambda model: model.profile(),
    "reset": lambda model: model.reset(),
    "report": lambda model: model.report,
    "inputs": lambda model: model.inputs,
    "outputs": lambda model: model.outputs,
    "signature": lambda model: model.signature,
    "buckets": lambda model: model.buckets,
    "compiled": lambda model: model.compiled,
    "has_state": lambda model: model.has_state,
    "session": lambda model: model.session(),
    "states": lambda model: model.states,
    "graph": lambda model: model.graph,
}


def test_what_one_graph_alone_can_do_names_the_graphs(store: Store, bundle: Bundle) -> None:
    with npu_persist.load(bundle.path, "CPU", store=store) as model:
        for use in ONE_ONLY.values():
            with pytest.raises(UsageError, match=r"has several graphs, scale, shift: use model\.graphs\['scale'\]"):
                use(model)
        with pytest.raises(AttributeError, match="no attribute 'other'"):
            model.other  # type: ignore[attr-defined] # noqa: B018


def test_every_public_member_of_a_model_is_among_these() -> None:
    members = {name for name in vars(npu_persist.Model) if not name.startswith("_")}
    assert members - ONE_ONLY.keys() == {"graphs", "close"}


def test_the_weights_are_read_once(store: Store, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def count(file: Any, **options: Any) -> str:
        read.append(Path(file.name).name)
        return digest_mapped(file, **options)

    monkeypatch.setattr("npu_persist.bundle.verification.digest_mapped", count)
    with npu_persist.load("two", "CPU", cache=False, store=store) as model:
        found = {one.report.verified_bytes for one in model.graphs.values()}
    assert read == ["weights.safetensors"]
    sizes = {path: entry.size for path, entry in bundle.manifest.files.items() if "golden" not in path}
    assert found == {sum(sizes.values())}


@pytest.mark.parametrize("path", ["scale.xml", "shift.xml", "weights.safetensors"])
def test_damage_of_any_file_is_an_error(store: Store, bundle: Bundle, path: str) -> None:
    damaged = bundle.path / path
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.chmod(0o644)
    damaged.write_bytes(data)
    with pytest.raises(FileIntegrityError, match=path.partition(".")[0]):
        npu_persist.load("two", "CPU", store=store)


def test_a_damaged_graph_does_no_harm_to_a_load_of_the_other(store: Store, bundle: Bundle) -> None:
    damaged = bundle.path / "shift.xml"
    damaged.chmod(0o644)
    damaged.write_bytes(b"<net/>")
    with npu_persist.load("two", "CPU", graph="scale", store=store) as model:
        assert np.array_equal(model(GRID), ANSWERS["scale"])


@pytest.mark.usefixtures("second_device", "bundle")
def test_each_graph_may_have_a_device_of_its_own(store: Store) -> None:
    with npu_persist.load("two", {"scale": "CPU", "shift": SECOND}, store=store) as model:
        assert [one.report.loaded_device for one in model.graphs.values()] == ["CPU", SECOND]
        assert np.array_equal(model.graphs["shift"](OTHER), OTHER + WEIGHT)
    with npu_persist.load("two", {"scale": "CPU", "shift": SECOND}, graph="shift", store=store) as model:
        assert model.report.device == SECOND


@pytest.mark.usefixtures("bundle")
def test_arguments_that_do_not_say_which_graph_they_are_for(store: Store) -> None:
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"device": {"scale": "CPU"}}, "there is none for shift"),
        ({"device": {"scale": "CPU", "other": "CPU"}}, "has no graph 'other'; it has scale, shift"),
        ({"device": {"scale": 1}}, "device: expected OpenVINO's device string"),
        ({"device": {}}, "device: expected OpenVINO's device string"),
        ({"buckets": [{"x": (2, 3)}]}, r"give them by the name of their graph, as in {'scale': \[...\]}"),
        ({"buckets": {"other": []}}, "buckets: two:1 has no graph 'other'"),
    )
    for options, message in wrong:
        with pytest.raises(UsageError, match=message):
            npu_persist.load("two", **{"device": "CPU", **options}, store=store)


@pytest.mark.usefixtures("bundle")
def test_whether_all_graphs_are_compiled(store: Store) -> None:
    def ask(graph: str | None = None) -> bool:
        return npu_persist.is_compiled("two", "CPU", graph=graph, store=store)

    assert not ask()
    npu_persist.load("two", "CPU", graph="scale", store=store).close()
    assert (ask("scale"), ask("shift"), ask()) == (True, False, False)
    npu_persist.load("two", "CPU", store=store).close()
    assert ask()
