"""`persist` with buckets: which axes they open, what is checked against torch, and loaded models at every size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.export import Dim

from npu_persist import Padding, load, persist
from npu_persist.bundle.graph_records import Dimension
from npu_persist.conversion.bucket_axes import infer_axes
from npu_persist.conversion.call import bind_call
from npu_persist.conversion.dynamic import input_ports
from npu_persist.errors import DeviceWarning, DynamicShapeError, InputError, ParityError, UsageError
from tests.support.modules import Calls

if TYPE_CHECKING:
    from npu_persist import Model

NPUW = {"NPU_USE_NPUW": "YES", "NPUW_DEVICES": "CPU", "NPUW_ONLINE_PIPELINE": "NONE"}


class Tagger(torch.nn.Module):
    """An embedding and a linear layer: each token by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(30, 8)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.embed(ids))
        return result


class Pixels(torch.nn.Module):
    """A convolutional net without borders: each pixel by itself, at half the size."""

    def __init__(self, kernel: int = 1, bias: float = 0.0) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 4, kernel, padding=kernel // 2)
        self.second = torch.nn.Conv2d(4, 2, 2, stride=2)
        torch.nn.init.constant_(self.first.bias, bias)  # type: ignore[arg-type]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(torch.relu(self.first(image)))
        return result


@dataclass
class Encoded:
    states: torch.Tensor
    pooled: torch.Tensor
    lengths: torch.Tensor


class Encoder(torch.nn.Module):
    """Masked attention over a sequence: outputs that follow the batch, the sequence, or both."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(30, 8)
        self.query, self.key, self.value = (torch.nn.Linear(8, 8) for _ in range(3))

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Encoded:
        x = self.embed(ids)
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask[:, None, :] == 0, -1e9)
        states = scores.softmax(-1) @ self.value(x)
        counted = torch.ones_like(ids) if attention_mask is None else attention_mask
        lengths = counted.sum(1)
        pooled = (states * counted[..., None]).sum(1) / lengths[:, None]
        return Encoded(states, pooled, lengths)


def ids(*size: int) -> torch.Tensor:
    return torch.randint(0, 30, size)


def same(found: Any, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert found.shape == tuple(expected.shape)
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=tolerance, atol=tolerance)


def check_encoder(module: Encoder, model: Model, x: torch.Tensor, mask: torch.Tensor | None = None) -> None:
    expected = module(x, torch.ones_like(x) if mask is None else mask)
    found = model(x) if mask is None else model(x, mask)
    for name in ("states", "pooled", "lengths"):
        same(getattr(found, name), getattr(expected, name))


def test_an_embedding_at_each_size() -> None:
    torch.manual_seed(0)
    module = Tagger().eval()
    bundle = persist(module, "tagger", (ids(1, 5),), buckets=[{"ids": (1, 8)}, {"ids": (1, 20)}], precision="fp32")
    (graph,) = bundle.manifest.graphs
    sequence = Dimension("ids_1", 1, 20)
    assert graph.inputs[0].shape == (1, sequence)
    assert graph.outputs[0].shape == (1, sequence, 3)
    assert graph.buckets is not None
    assert graph.buckets.shapes == ({"ids": (1, 8)}, {"ids": (1, 20)})
    model = load("tagger", "CPU")
    for length in (1, 2, 7, 8, 9, 19, 20):
        x = ids(1, length)
        same(model(x), module(x))
    with pytest.raises(InputError, match=r"size 1\.\.20 on axis 1 \(ids_1\); got 21"):
        model(ids(1, 21))


def test_images_of_any_height_and_width() -> None:
    torch.manual_seed(0)
    module = Pixels().eval()
    buckets = [{"image": (1, 3, 16, 16)}, {"image": (1, 3, 16, 40)}]
    persist(module, "pixels", (torch.randn(1, 3, 8, 8),), buckets=buckets, precision="fp32")
    model = load("pixels", "CPU")
    assert [getattr(axis, "name", axis) for axis in model.outputs[0].shape] == [1, 2, "image_2//2", "image_3//2"]
    for height, width in ((2, 2), (16, 16), (5, 9), (9, 5), (16, 17), (15, 39), (16, 40)):
        x = torch.randn(1, 3, height, width)
        same(model(x), module(x))


@pytest.mark.parametrize(
    ("padding", "is_right"),
    [(None, True), ({"image": Padding(1.0)}, False), ({"image": Padding(0.0, "left")}, False)],
)
def test_padding_that_changes_the_border_is_refused(padding: Any, *, is_right: bool) -> None:
    """Zeros on the right are what this convolution itself puts there; anything else reaches into the result."""
    torch.manual_seed(0)
    module = torch.nn.Conv2d(3, 4, 3, padding=1).eval()
    example, buckets = (torch.randn(1, 3, 8, 8),), [{"input": (1, 3, 15, 15)}]
    if padding and padding["image"].side == "left":
        module = torch.nn.Conv2d(3, 4, 3, padding=1, stride=2).eval()
    named = None if padding is None else {"input": padding["image"]}
    if is_right:
        persist(module, "border", example, buckets=buckets, padding=named)
        x = torch.randn(1, 3, 11, 13)
        same(load("border", "CPU")(x), module(x), 1e-2)
    else:
        with pytest.raises(ParityError, match=r"padding input=1x3x10x10 up to the bucket input=1x3x15x15 changes the"):
            persist(module, "border", example, buckets=buckets, padding=named)


def test_two_layers_with_a_border_are_refused() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 2, 3, padding=1)).eval()
    with pytest.raises(ParityError, match="means over an axis") as caught:
        persist(module, "net", (torch.randn(1, 3, 8, 8),), buckets=[{"input": (1, 3, 12, 12)}], tolerance=0.01)
    assert caught.value.output
    assert caught.value.differences


def test_batch_and_sequence_with_a_mask() -> None:
    torch.manual_seed(0)
    module = Encoder().eval()
    x = ids(2, 5)
    bundle = persist(
        module,
        "encoder",
        kwargs={"ids": x, "attention_mask": torch.ones_like(x)},
        buckets=[{"ids": (4, 8)}, {"ids": (1, 16)}],
        precision="fp32",
    )
    (graph,) = bundle.manifest.graphs
    batch, sequence = Dimension("ids_0", 1, 4), Dimension("ids_1", 1, 16)
    assert [port.shape for port in graph.inputs] == [(batch, sequence)] * 2
    assert [port.shape for port in graph.outputs] == [(batch, sequence, 8), (batch, 8), (batch,)]
    model = load("encoder", "CPU")
    for size in ((1, 1), (4, 8), (3, 7), (1, 16), (1, 9), (2, 8)):
        check_encoder(module, model, ids(*size))
        mask = torch.ones(size, dtype=torch.int64)
        mask[:, size[1] // 2 + 1 :] = 0
        check_encoder(module, model, ids(*size), mask)
    with pytest.raises(InputError, match="fits none of the sizes"):
        model(ids(2, 9))


def test_left_padding() -> None:
    torch.manual_seed(0)
    module = Encoder().eval()
    x = ids(1, 5)
    persist(module, "left", (x, torch.ones_like(x)), buckets=[{"ids": (1, 12)}], padding={"ids": Padding(3, "left")},
            precision="fp32")  # fmt: skip
    model = load("left", "CPU")
    for length in (1, 5, 11, 12):
        check_encoder(module, model, ids(1, length))


def test_through_the_npu_plugin() -> None:
    torch.manual_seed(0)
    module = Encoder().eval()
    x = ids(1, 5)
    persist(module, "npu", (x, torch.ones_like(x)), buckets=[{"ids": (1, 8)}, {"ids": (1, 12)}], precision="fp32")
    with pytest.warns(DeviceWarning, match="was persisted for float32, which NPU does not have"):
        model = load("npu", "NPU", config=NPUW)
    for length in (3, 8, 10):
        expected, found = module(ids_ := ids(1, length), torch.ones_like(ids_)), model(ids_)
        same(found.states, expected.states, 0.02)


def test_a_mask_that_the_example_leaves_out_is_asked_for() -> None:
    with pytest.raises(UsageError, match=r"takes an attention_mask, and the example gives none.*torch\.ones_like"):
        persist(Encoder(), "encoder", (ids(1, 5),), buckets=[{"ids": (1, 12)}])


def test_a_module_that_attends_to_what_is_filled_up_is_refused() -> None:
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(1)

    with pytest.raises(ParityError, match="changes the result"):
        persist(Mean(), "mean", (torch.rand(1, 5),), buckets=[{"x": (1, 12)}])


class Maximum(torch.nn.Module):
    """Among many values a zero more is seldom the largest: a comparison at one size does not see it."""

    def __init__(self, embed: torch.nn.Module) -> None:
        super().__init__()
        self.embed = embed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.embed(x).amax(1)
        return result


@pytest.mark.parametrize(
    ("embed", "x"),
    [(torch.nn.Identity(), torch.randn(1, 60, 4)), (torch.nn.Embedding(30, 16), torch.randint(1, 30, (1, 60)))],
)
def test_a_maximum_over_what_is_filled_up_is_refused(embed: torch.nn.Module, x: torch.Tensor) -> None:
    with pytest.raises(ParityError, match=r"changes the result.*Dim\(\.\.\., min=8\)"):
        persist(Maximum(embed), "maximum", (x,), buckets=[{"x": (1, 64, *x.shape[2:])}])


@pytest.mark.parametrize(
    ("function", "x"),
    [
        (lambda x: x.amax(1), torch.rand(1, 60)),
        (lambda x: x.amin(1), -torch.rand(1, 60)),
        (lambda x: x.topk(2, 1)[0], torch.rand(1, 60) + 1),
        (lambda x: x.argmax(1), torch.relu(torch.randn(1, 60)) + torch.eye(60)[0]),
        (lambda x: x.amax(1), torch.randint(1, 30, (1, 60))),
        (lambda x: x.argmin(1), torch.randint(-30, -1, (1, 60))),
        (lambda x: x.amin(1), torch.randint(0, 30, (1, 60), dtype=torch.int32)),
    ],
    ids=["amax", "amin", "topk", "argmax", "integer amax", "integer argmin", "integer amin"],
)
def test_what_padding_changes_for_values_of_another_sign_is_refused(function: Any, x: torch.Tensor) -> None:
    x[0, 0] = x.max() + 1 if x.max() > 0 else x.min() - 1
    with pytest.raises(ParityError, match="changes the result"):
        persist(Calls(function), "reduced", (x,), buckets=[{"inputs.0": (1, 64)}])


def test_masks_keep_their_values() -> None:
    class Masked(torch.nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return x.masked_fill(mask == 0, -60000.0).amax(1)

    x, mask = torch.rand(1, 60), (torch.arange(60) < 50).long()[None]
    persist(Masked(), "masked", (x, mask), buckets=[{"x": (1, 64), "mask": (1, 64)}])
    x = -torch.rand(1, 9)
    same(load("masked", "CPU")(x, torch.ones(1, 9).long()), x.amax(1), 1e-2)


def test_a_maximum_over_what_is_filled_up_with_less_is_right() -> None:
    padding = {"x": Padding(-65000.0)}
    persist(Maximum(torch.nn.Identity()), "maximum", (torch.randn(1, 60, 4),), buckets=[{"x": (1, 64, 4)}],
            padding=padding)  # fmt: skip
    x = -torch.rand(1, 9, 4)
    same(load("maximum", "CPU")(x), x.amax(1), 1e-2)


def test_a_size_at_which_torch_gives_nan_is_not_compared() -> None:
    class Deviation(torch.nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            count = mask.sum(1, keepdim=True)
            off = (x - (x * mask).sum(1, keepdim=True) / count) * mask
            return ((off**2).sum(1) / (count[:, 0] - 1)).sqrt()

    inputs = (torch.randn(1, 5), torch.ones(1, 5))
    bundle = persist(Deviation(), "deviation", inputs, buckets=[{"x": (1, 16), "mask": (1, 16)}], precision="fp32")
    assert not any("bucket" in line for line in bundle.manifest.warnings)


def test_an_output_that_cannot_be_cut_back() -> None:
    class Flat(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten()

    with pytest.raises(
        DynamicShapeError, match=r"does not follow from one open axis of the inputs .x axis 0, x axis 1"
    ):
        persist(Flat(), "flat", (torch.rand(2, 5),), buckets=[{"x": (4, 12)}])


def test_with_dynamic_shapes_of_the_callers_own() -> None:
    torch.manual_seed(0)
    module = Tagger().eval()
    bundle = persist(module, "own", (ids(2, 5),), dynamic_shapes={"ids": {1: Dim("tokens")}}, buckets=[{"ids": (2, 7)}])
    assert bundle.manifest.graphs[0].inputs[0].shape == (2, Dimension("tokens", 0, None))
    model = load("own", "CPU")
    same(model(x := ids(2, 6)), module(x), 1e-2)
    with pytest.raises(DynamicShapeError, match="axis 0 of ids: expected 2, which is fixed; got 1"):
        persist(module, "own", (ids(2, 5),), dynamic_shapes={"ids": {1: Dim("tokens")}}, buckets=[{"ids": (1, 7)}])


def test_without_check_nothing_is_compared() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 2, 3, padding=1)).eval()
    persist(module, "net", (torch.randn(1, 3, 8, 8),), buckets=[{"input": (1, 3, 12, 12)}], check=False)


def test_a_module_that_takes_multiples_only_says_so_in_the_manifest() -> None:
    class Eights(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[1] % 8:
                raise ValueError("not a multiple of 8")
            return x + 1

    bundle = persist(Eights(), "eights", (torch.rand(1, 8),), buckets=[{"x": (1, 16)}])
    assert not any("bucket" in line for line in bundle.manifest.warnings)  # half of 16 could be compared
    bundle = persist(Eights(), "eights", (torch.rand(1, 8),), buckets=[{"x": (1, 8)}, {"x": (1, 16)}])
    (line,) = [line for line in bundle.manifest.warnings if "bucket" in line]
    assert line.startswith("bucket x=1x8: the module failed at all smaller sizes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buckets": [{"ids": (1, 4)}]}, r"the example, ids=1x5, fits none of ids=1x4"),
        ({"buckets": [{"ids": (1, 5)}]}, "dynamic axes; got one whose inputs have fixed sizes"),
        ({"buckets": [{"x": (1, 8)}]}, "expected one of the inputs ids; got 'x'"),
        ({"buckets": [{"ids": (8,)}]}, r"expected 2 sizes for ids|dynamic axes"),
        ({"buckets": []}, "expected a list of shapes"),
        ({"buckets": [{"ids": (1, 8)}], "padding": {"ids": Padding(0.5)}}, "a number that int64 can hold"),
        ({"padding": {"ids": Padding()}}, "pass buckets too"),
    ],
)
def test_what_is_wrong_is_said_before_the_trace(options: Any, message: str) -> None:
    stages: list[str] = []
    with pytest.raises(UsageError, match=message):
        persist(Tagger(), "tagger", (ids(1, 5),), progress=lambda event: stages.append(event.stage), **options)
    assert "trace" not in stages


class Many(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return a, b, c


def inferred(a: tuple[int, ...], b: tuple[int, ...], c: tuple[int, ...], *buckets: Any) -> list[list[str | int]]:
    call = bind_call(Many(), (torch.zeros(a), torch.zeros(b), torch.zeros(c)), {})
    ports = input_ports(call, infer_axes(call, list(buckets)))
    return [[axis.name or "?" if isinstance(axis, Dimension) else axis for axis in port.shape] for port in ports]


class TestAxes:
    def test_those_of_inputs_that_no_bucket_names_follow(self) -> None:
        found = inferred((1, 5), (1, 5), (5,), {"a": (1, 8)}, {"a": (1, 16)})
        assert found == [[1, "a_1"], [1, "a_1"], ["a_1"]]

    def test_those_that_are_equal_everywhere_are_one(self) -> None:
        found = inferred((2, 5), (2, 5), (2, 6), {"a": (4, 8), "b": (4, 8), "c": (4, 9)}, {"a": (4, 9), "b": (4, 9)})
        assert found == [["a_0", "a_1"], ["a_0", "a_1"], ["a_0", "c_1"]]

    def test_two_axes_of_one_input_are_two(self) -> None:
        found = inferred((1, 8, 8), (2, 8, 8), (3,), {"a": (1, 16, 16)})
        assert found == [[1, "a_1", "a_2"], [2, "a_1", "a_2"], [3]]

    def test_equal_in_the_example_only_is_not_equal(self) -> None:
        assert inferred((5, 2), (5, 2), (1,), {"a": (8, 2), "b": (9, 2)}) == [["a_0", 2], ["b_0", 2], [1]]

    def test_a_size_of_one_follows_at_its_own_place_only(self) -> None:
        assert inferred((1, 5), (1,), (1, 7), {"a": (4, 5)}) == [["a_0", 5], [1], ["a_0", 7]]

    def test_one_of_two_has_to_be_named(self) -> None:
        with pytest.raises(UsageError, match="axis 0 of c has size 5 in the example, as several open axes have"):
            inferred((3, 5, 2), (3, 2, 5), (5,), {"a": (3, 8, 2), "b": (3, 2, 9)})

    def test_bounds_go_from_one_to_the_largest(self) -> None:
        call = bind_call(Many(), (torch.zeros(1, 9), torch.zeros(1), torch.zeros(1)), {})
        (port, *_) = input_ports(call, infer_axes(call, [{"a": (1, 4)}, {"a": (1, 12)}]))
        assert port.shape == (1, Dimension("a_1", 1, 12))


def test_bert() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, attn_implementation="eager",
    )  # fmt: skip
    module = transformers.BertModel(config).eval()
    x = ids(1, 6)
    persist(
        module,
        "bert",
        kwargs={"input_ids": x, "attention_mask": torch.ones_like(x)},
        buckets=[{"input_ids": (1, 8)}, {"input_ids": (2, 24)}],
        precision="fp32",
    )
    model = load("bert", "CPU")
    for size in ((1, 1), (1, 5), (1, 8), (1, 9), (2, 4), (2, 24), (1, 23)):
        x = ids(*size)
        found, expected = model(input_ids=x), module(x)
        same(found.last_hidden_state, expected.last_hidden_state, 1e-3)
        same(found.pooler_output, expected.pooler_output, 1e-3)


def test_the_command_line(tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from npu_persist.cli.main import main

    (tmp_path / "made.py").write_text(
        "import torch\ndef make():\n    return torch.nn.ReLU(), (torch.zeros(1, 4),)\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["persist", "made:make", "--name", "relu", "--json"]
    assert main([*arguments, "--bucket", "input=1x8", "--bucket", "input=2x8", "--pad", "input=-1:left"]) == 0
    (graph,) = json.loads(capsys.readouterr().out)["manifest"]["graphs"]
    assert graph["buckets"] == {
        "shapes": [{"input": [1, 8]}, {"input": [2, 8]}],
        "padding": {"input": {"value": -1.0, "side": "left"}},
    }
    assert main(["inspect", "relu"]) == 0
    assert "input=2x8" in capsys.readouterr().out
