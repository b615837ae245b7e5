"""Several modules become several graphs on one weights file, in which each tensor is stored once."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import npu_persist
from npu_persist import Example, persist
from npu_persist.bundle.golden_records import Golden
from npu_persist.bundle.manifest import Weights
from npu_persist.bundle.tensors import Tensors
from npu_persist.bundle.weights import lay_out, read_header, write
from npu_persist.conversion.build import Part
from npu_persist.conversion.join import join
from npu_persist.errors import (
    ConversionError,
    DynamicShapeError,
    ExampleInputsError,
    ParityError,
    PersistWarning,
    UsageError,
)
from tests.support.bundles import TINY_GRAPH
from tests.support.modules import Affine, Raises

if TYPE_CHECKING:
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.store import Store

IDS = torch.arange(4)[None]
TINY_GOLDEN = Golden("golden.safetensors", None, None)
STATES = torch.linspace(-1, 1, 64).reshape(1, 4, 16)


class Encoder(torch.nn.Module):
    def __init__(self, embedding: torch.nn.Embedding) -> None:
        super().__init__()
        self.embedding = embedding
        self.layer = torch.nn.Linear(16, 16)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.layer(self.embedding(ids))
        return states


class Decoder(torch.nn.Module):
    """Has the encoder's table under another name, tied to its output, and another layer of the encoder's name."""

    def __init__(self, embedding: torch.nn.Embedding) -> None:
        super().__init__()
        self.table = embedding
        self.layer = torch.nn.Linear(16, 16)
        self.head = torch.nn.Linear(16, 50, bias=False)
        self.head.weight = embedding.weight

    def forward(self, states: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.layer(states + self.table(ids)))
        return logits


def make_halves() -> tuple[Encoder, Decoder]:
    torch.manual_seed(0)
    table = torch.nn.Embedding(50, 16)
    return Encoder(table).eval(), Decoder(table).eval()


def persist_halves(store: Store, **options: Any) -> tuple[Bundle, Encoder, Decoder]:
    encoder, decoder = make_halves()
    examples = {"encoder": Example(encoder, (IDS,)), "decoder": Example(decoder, (STATES, IDS))}
    return persist(examples, "halves", store=store, **options), encoder, decoder


def elements(bundle: Bundle) -> int:
    tensors = read_header(bundle.path / "weights.safetensors").tensors
    return sum(math.prod(tensor.shape) for name, tensor in tensors.items() if not name.startswith("constant."))


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_shared_tensor_is_stored_once_and_both_answer_as_torch(store: Store, precision: Any) -> None:
    bundle, encoder, decoder = persist_halves(store, precision=precision)
    assert sorted(path.name for path in bundle.path.iterdir()) == [
        *("decoder.bin", "decoder.golden.safetensors", "decoder.xml"),
        *("encoder.bin", "encoder.golden.safetensors", "encoder.xml", "manifest.json", "weights.safetensors"),
    ]
    assert elements(bundle) == 50 * 16 + 2 * (16 * 16 + 16)
    bundle.verify()
    ids, states = torch.tensor([[49, 0, 7, 7]]), torch.randn(1, 4, 16)
    atol = 1e-5 if precision == "fp32" else 0.02
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # some CPUs compute fp16 bundles in bfloat16
    with npu_persist.load("halves", "CPU", store=store, config=exact) as model, torch.no_grad():
        found = model.graphs["encoder"](ids.numpy())
        np.testing.assert_allclose(found, encoder(ids).numpy(), rtol=0, atol=atol)
        found = model.graphs["decoder"](states.numpy(), ids.numpy())
        np.testing.assert_allclose(found, decoder(states, ids).numpy(), rtol=0, atol=atol)


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_names_are_those_of_the_state_dict_unless_they_clash(store: Store, precision: Any) -> None:
    bundle, encoder, decoder = persist_halves(store, precision=precision)
    weights = npu_persist.weights(bundle.reference, store=store)
    expected = {
        "embedding.weight": encoder.embedding.weight,
        "encoder.layer.weight": encoder.layer.weight,
        "encoder.layer.bias": encoder.layer.bias,
        "table.weight": decoder.table.weight,
        "head.weight": decoder.head.weight,
        "decoder.layer.weight": decoder.layer.weight,
        "decoder.layer.bias": decoder.layer.bias,
    }
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        scale = float(tensor.detach().abs().max())
        limit = {"fp16": 1e-3, "int8": 1e-2, "int4": 0.15}[precision]
        np.testing.assert_allclose(weights[name], tensor.detach().numpy(), rtol=0, atol=limit * scale, err_msg=name)


def test_tools_of_openvino_open_each_graph(store: Store) -> None:
    bundle, encoder, _ = persist_halves(store)
    compiled = ov.Core().compile_model(bundle.path / "encoder.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        np.testing.assert_allclose(compiled([IDS.numpy()])[0], encoder(IDS).numpy(), rtol=0, atol=0.02)
    assert ov.Core().read_model(bundle.path / "decoder.xml").inputs[0].any_name == "states"


def test_equal_modules_give_an_equal_bundle(store: Store) -> None:
    first, *_ = persist_halves(store)
    second, *_ = persist_halves(store)
    assert (first.version, second.version) == (1, 1)


def test_values_that_differ_only_in_scale_are_not_taken_for_the_same(store: Store) -> None:
    first, second = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)
    with torch.no_grad():
        second.weight.copy_(2 * first.weight)
        second.bias.copy_(first.bias)
    x = torch.randn(1, 16)
    examples = {"first": Example(first, (x,)), "second": Example(second, (x,))}
    bundle = persist(examples, "scaled", precision="int8", store=store)
    weights = npu_persist.weights("scaled", store=store)
    assert weights.keys() == {"bias", "first.weight", "second.weight"}
    assert np.array_equal(weights["second.weight"], 2 * weights["first.weight"])
    stored = read_header(bundle.path / "weights.safetensors").tensors
    assert [name for name, tensor in stored.items() if tensor.dtype == "I8"] == ["first.weight"]
    with npu_persist.load("scaled", "CPU", store=store) as model:
        y = torch.randn(1, 16)
        for name, module in (("first", first), ("second", second)):
            np.testing.assert_allclose(model.graphs[name](y), module(y).detach().numpy(), rtol=0, atol=0.05)


def test_graphs_whose_names_have_dots_keep_their_tensors_apart(store: Store) -> None:
    class Inner(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.b = torch.nn.Linear(4, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.b(x)
            return y

    # "a" before "b.weight" is "a.b" before "weight".
    modules = {"a": Inner(), "a.b": torch.nn.Linear(4, 4, bias=False), "c": Inner()}
    modules["d"] = torch.nn.Linear(4, 4, bias=False)
    x = torch.randn(1, 4)
    bundle = persist({name: Example(module, (x,)) for name, module in modules.items()}, "dots", store=store)
    assert bundle.manifest.weights.tensors == 4
    with npu_persist.load("dots", "CPU", store=store) as model:
        for name, module in modules.items():
            np.testing.assert_allclose(model.graphs[name](x), module(x).detach().numpy(), rtol=0, atol=0.01)


NAMES = ("a", "b", "g.a", "h.a", "g.h.a", "constant.0", "constant.1")
"""Names of tensors that get into each other's way, of graphs called `g` and `g.h`."""
FILES = st.tuples(
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3), min_size=1),
    st.dictionaries(st.sampled_from(["a", "b", "c", "g.c"]), st.sampled_from(NAMES)),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(FILES, min_size=2, max_size=3))
def test_whatever_the_names_are_each_leads_to_its_values(tmp_path_factory: pytest.TempPathFactory, files: Any) -> None:
    folder = tmp_path_factory.mktemp("parts")
    parts: list[Part] = []
    expected: list[tuple[dict[str, int], list[str]]] = []
    for graph, (tensors, aliases) in zip(("g", "g.h", "x"), files, strict=False):
        (folder / graph).mkdir()
        aliased = {name: to for name, to in aliases.items() if name not in tensors and to in tensors}
        header, starts = lay_out(dict.fromkeys(tensors, ("I64", (1,), 8)), aliased)
        chunks = [tensors[name].to_bytes(8, "little") for name in sorted(starts, key=starts.__getitem__)]
        write(folder / graph / "weights.safetensors", header, chunks, lambda _: None)
        layers = "".join(
            f'<layer type="Const" name="{name}"><data offset="{start}" size="8"/></layer>'
            for name, start in starts.items()
        )
        (folder / graph / "model.xml").write_text(f"<net><layers>{layers}</layers></net>")
        (folder / graph / "golden.safetensors").write_bytes(b"")
        described = replace(TINY_GRAPH, name=graph)
        weights, golden = Weights("weights.safetensors", 4096, 8 * len(tensors), len(tensors)), TINY_GOLDEN
        digests = {"golden.safetensors": ""}
        parts.append(Part(folder / graph, described, weights, golden, digests, (), None))
        expected.append(({**tensors, **{name: tensors[to] for name, to in aliased.items()}}, list(starts)))
    joined = join(parts, folder, lambda _: None)
    content = (folder / "weights.safetensors").read_bytes()
    merged = Tensors(folder / "weights.safetensors")
    assert joined.weights.tensors == len({value for values, _ in expected for value in values.values()})
    for part, (values, order) in zip(parts, expected, strict=True):
        graph = part.graph.name
        root = ET.parse(folder / f"{graph}.xml").getroot()  # noqa: S314 - our own
        for name, data in zip(order, root.iter("data"), strict=True):
            start = int(data.get("offset", ""))
            assert int.from_bytes(content[start : start + 8], "little") == values[name]
        for name, value in values.items():
            if not name.startswith("constant."):
                is_same = all(other.get(name, value) == value for other, _ in expected)
                called = [name] if is_same else [f"{graph}." * count + name for count in range(1, 5)]
                assert any(one in merged and int(merged[one][0]) == value for one in called)


def test_each_graph_has_its_own_sizes_and_comparisons(store: Store) -> None:
    encoder, decoder = make_halves()
    sizes = [{"ids": (1, 4)}, {"ids": (1, 8)}]
    others = [(torch.randn(1, 4, 16), torch.tensor([[5, 6, 7, 8]]))]
    examples = {
        "encoder": Example(encoder, (IDS,), buckets=sizes),
        "decoder": Example(decoder, (STATES, IDS), evaluate=others),
    }
    bundle = persist(examples, "sizes", store=store)
    assert bundle.graph("encoder").buckets is not None
    assert bundle.graph("decoder").buckets is None
    assert {name: one.evaluation is not None for name, one in bundle.manifest.goldens.items()} == {
        "encoder": False,
        "decoder": True,
    }
    with npu_persist.load("sizes", "CPU", store=store) as model:
        assert len(model.graphs["encoder"].buckets) == 2
        assert model.graphs["encoder"](np.zeros((1, 6), np.int64)).shape == (1, 6, 16)
    with npu_persist.load("sizes", "CPU", buckets={"encoder": [{"ids": (1, 6)}]}, store=store) as model:
        assert [one["ids"] for one in model.graphs["encoder"].buckets] == [(1, 6)]
    with pytest.raises(DynamicShapeError, match=r"^graph encoder: "):
        npu_persist.load("sizes", "CPU", buckets={"encoder": [{"ids": (1, 16)}]}, store=store)


def test_one_of_the_graphs_may_have_a_state(store: Store) -> None:
    class Total(torch.nn.Module):
        def forward(self, x: torch.Tensor, total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            total = total + x
            return total * 2, total

    zeros = torch.zeros(1, 4, 16)
    examples = {
        "encoder": Example(make_halves()[0], (IDS,)),
        "total": Example(Total(), (STATES, zeros), states={"total": "output.1"}, initial={"total": 1.0}),
    }
    bundle = persist(examples, "stateful", store=store)
    assert {name: golden.steps > 1 for name, golden in bundle.manifest.goldens.items()} == {
        "encoder": False,
        "total": True,
    }
    bundle.verify()
    with npu_persist.load("stateful", "CPU", store=store) as model:
        session = model.graphs["total"].session()
        assert not model.graphs["encoder"].has_state
        ones = np.ones((1, 4, 16), np.float32)
        assert [float(session(ones).max()) for _ in range(3)] == [4.0, 6.0, 8.0]
    assert npu_persist.check("stateful", "CPU", graph="total", store=store).is_right


def test_nothing_is_published_unless_all_are_right(store: Store) -> None:
    encoder, _ = make_halves()
    other = torch.nn.Linear(16, 16)
    for tolerance, bad, kind in (
        (1e-9, Example(other, (STATES,)), ParityError),
        (None, Example(Raises(), (STATES,)), ConversionError),
        (None, Example(other), ExampleInputsError),
    ):
        examples = {"encoder": Example(encoder, (IDS,)), "bad": bad}
        with pytest.raises(kind) as raised:
            persist(examples, "never", tolerance=tolerance, store=store)
        assert str(raised.value).startswith("encoder: " if tolerance else "bad: ")
    assert store.list() == []


def test_a_warning_says_which_graph_it_is_about(store: Store) -> None:
    from tests.support.modules import Branch

    examples = {"encoder": Example(make_halves()[0], (IDS,)), "branch": Example(Branch(), (torch.ones(2, 4),))}
    with pytest.warns(PersistWarning, match=r"^branch: Branch: ") as caught:
        bundle = persist(examples, "warned", store=store)
    assert caught[0].filename == __file__
    assert [text.partition(":")[0] for text in bundle.manifest.warnings] == ["branch"]


def test_one_graph_in_a_mapping_is_as_a_module_with_another_name(store: Store) -> None:
    encoder, _ = make_halves()
    bundle = persist({"text": Example(encoder, (IDS,))}, "one", store=store)
    alone = persist(encoder, "alone", (IDS,), store=store)
    assert bundle.manifest.files == alone.manifest.files
    assert [graph.name for graph in bundle.manifest.graphs] == ["text"]
    torch.nn.init.normal_(encoder.layer.weight)
    assert npu_persist.refresh("one", encoder, store=store).version == 2


def test_what_the_arguments_may_not_be(store: Store) -> None:
    example = Example(Affine(), (torch.ones(1, 4),))
    for examples, options, message in (
        ({}, {}, "an empty mapping"),
        ({"a": Affine()}, {}, "graph a: expected an npu_persist.Example; got Affine"),
        ({"a": Example(3)}, {}, "takes a torch.nn.Module"),  # type: ignore[arg-type]
        ({"a/b": example}, {}, "graph 'a/b': expected a valid file name"),
        ({"..": example}, {}, r"graph '\.\.': expected a valid file name"),
        ({"": example}, {}, "graph ''"),
        ({"nul": example}, {}, "graph 'nul'"),
        ({"a" * 90: example}, {}, "expected a valid file name"),
        ({1: example}, {}, "graph 1: expected a valid file name"),
        ({"a": example, "A": example}, {}, "graphs 'a' and 'A'"),
        ({"a": example}, {"args": (torch.ones(1, 4),)}, "args: pass this to the Example"),
        ({"a": example}, {"buckets": [], "padding": {}}, "buckets, padding: pass this to the Example"),
        ({"a": example}, {"precision": "int8", "keep": {"nothing": "fp16"}}, "matches no parameter of Affine"),
    ):
        with pytest.raises(UsageError, match=message):
            persist(examples, "never", store=store, **options)  # type: ignore[arg-type]
    assert store.list() == []


def test_a_pattern_of_keep_may_be_for_one_of_the_graphs(store: Store) -> None:
    persist_halves(store, precision="int8", keep={"head.weight": "fp16", "embedding.weight": "fp16"})
    weights = npu_persist.weights("halves", store=store)
    assert isinstance(weights, Tensors)
    assert (weights.precision("embedding.weight"), weights.precision("decoder.layer.weight")) == ("F16", "int8")


def test_several_graphs_are_not_refreshed(store: Store) -> None:
    _, encoder, _ = persist_halves(store)
    with pytest.raises(npu_persist.errors.RefreshError, match="has several graphs"):
        npu_persist.refresh("halves", encoder, store=store)
