from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

import npu_persist  # noqa: E402
from npu_persist.conversion.assets import collect_assets, write_assets  # noqa: E402
from npu_persist.errors import ConversionError, UsageError  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

MODULE = torch.nn.Identity()


def test_bytes_and_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "labels").write_bytes(b"yes")
    given: dict[str, Any] = {"a.bin": b"\0", "b": bytearray(b"b"), "deep/c": str(tmp_path / "labels")}
    found = collect_assets(MODULE, {**given, "d": tmp_path / "labels"})
    assert found == {"a.bin": b"\0", "b": b"b", "deep/c": b"yes", "d": b"yes"}
    write_assets(found, tmp_path / "out")
    assert (tmp_path / "out/deep/c").read_bytes() == b"yes"


@pytest.mark.parametrize(
    ("assets", "message"),
    [
        ({"../a": b""}, "starts with"),
        ({"a/../b": b""}, "starts with"),
        ({"/a": b""}, "empty"),
        ({"": b""}, "empty"),
        ({"con": b""}, "reserves for a device"),
        ({"a:b": b""}, ":"),
        ({1: b""}, "is no text"),
        ({"openvino_model.xml": b""}, "the name of an exported graph"),
        ({"a": 1}, "expected bytes or the path of a file for a; got int"),
        ({"a": "no such file"}, "could not read a from no such file"),
        ({"a": "x\0y"}, "could not read a"),
    ],
)
def test_what_cannot_be_an_asset_is_refused(assets: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        collect_assets(MODULE, assets)


class Saved:
    """What `save_pretrained` writes."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def save_pretrained(self, folder: str) -> None:
        from pathlib import Path

        for name in self.names:
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(name))


def test_a_processor_brings_its_files_and_the_config_of_the_module(caplog: pytest.LogCaptureFixture) -> None:
    module: Any = torch.nn.Identity()
    module.config, module.generation_config = Saved("config.json"), Saved("generation_config.json")
    assert collect_assets(module, None) == {}
    found = collect_assets(module, {"mine": b""}, processor=Saved("preprocessor_config.json", "more/a.json"))
    assert set(found) == {"config.json", "generation_config.json", "preprocessor_config.json", "more/a.json", "mine"}
    with pytest.raises(UsageError, match="already added by the tokenizer"):
        collect_assets(module, {"config.json": b""}, processor=Saved())
    assert not caplog.records


def test_a_feature_extractor_also_has_the_file_that_genai_looks_for() -> None:
    processor: Any = Saved("processor_config.json")
    processor.feature_extractor = Saved("preprocessor_config.json")
    assert set(collect_assets(MODULE, None, processor=processor)) == {
        "processor_config.json",
        "preprocessor_config.json",
    }


def test_what_cannot_be_saved_is_refused() -> None:
    class Slow:
        def save_pretrained(self, folder: str) -> None:
            raise NotImplementedError(f"not into {folder}")

    with pytest.raises(UsageError, match="an object with `save_pretrained`, as in transformers; got str"):
        collect_assets(MODULE, None, tokenizer="bert")
    with pytest.raises(UsageError, match="of Slow failed: not into"):
        collect_assets(MODULE, None, processor=Slow())


def test_without_openvino_tokenizers_the_files_are_kept_and_the_lack_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert set(collect_assets(MODULE, None, tokenizer=Saved("tokenizer.json"))) == {"tokenizer.json"}
    assert "npu_persist[genai]" in caplog.text


def test_a_tokenizer_that_cannot_be_converted_is_refused() -> None:
    pytest.importorskip("openvino_tokenizers", reason="needs the extra genai")
    with pytest.raises(ConversionError, match="cannot convert Saved"):
        collect_assets(MODULE, None, tokenizer=Saved("tokenizer.json"))


def make_tokenizer() -> Any:
    """Return a tokenizer of words, with a chat template."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs transformers")
    from transformers import PreTrainedTokenizerFast

    words = {"<end>": 0, "?": 1, "hello": 2, "world": 3}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))  # noqa: S106 (no password)
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    names = {"eos_token": "<end>", "unk_token": "?", "pad_token": "<end>"}
    made: Any = PreTrainedTokenizerFast(tokenizer_object=model, **names)
    made.chat_template = "{{ messages[0].content }}"
    return made


def test_a_tokenizer_is_kept_also_as_graphs_and_always_the_same() -> None:
    pytest.importorskip("openvino_tokenizers", reason="needs the extra genai")
    found = collect_assets(MODULE, None, tokenizer=make_tokenizer())
    graphs = {f"openvino_{kind}.{end}" for kind in ("tokenizer", "detokenizer") for end in ("xml", "bin")}
    assert graphs | {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= set(found)
    assert b"messages[0].content" in found["openvino_tokenizer.xml"]
    assert collect_assets(MODULE, None, tokenizer=make_tokenizer()) == found
    assert "transformers" in sys.modules


def test_persist_keeps_assets_and_a_new_version_is_made_where_they_differ() -> None:
    def persist(labels: bytes) -> Any:
        return npu_persist.persist(torch.nn.ReLU(), "relu", (torch.ones(2),), assets={"labels.txt": labels})

    bundle = persist(b"yes")
    assert (bundle.asset("labels.txt").read_bytes(), bundle.assets) == (b"yes", ("labels.txt",))
    assert persist(b"yes").version == bundle.version == 1
    assert persist(b"no").version == 2
    with npu_persist.load("relu:1", "CPU") as model:
        assert model.bundle.asset("labels.txt").read_bytes() == b"yes"


def test_a_text_encoder_is_persisted_with_its_tokenizer_and_runs_in_its_pipeline() -> None:
    genai = pytest.importorskip("openvino_genai", reason="needs the extra genai")
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    tokenizer = make_tokenizer()
    example = dict(tokenizer(["hello world"], return_tensors="pt"))
    length = torch.export.Dim("length", min=1, max=64)
    bundle = npu_persist.persist(
        model, "bert", kwargs=example, dynamic_shapes={name: {1: length} for name in example}, tokenizer=tokenizer
    )
    assert {"config.json", "tokenizer.json", "openvino_tokenizer.xml"} <= set(bundle.assets)
    mean = {"pooling_type": genai.TextEmbeddingPipeline.PoolingType.MEAN, "normalize": False}
    pipe = npu_persist.pipeline("bert", "CPU", config={**mean, "INFERENCE_PRECISION_HINT": "f32"})
    (found,) = pipe.embed_documents(["world hello hello"])
    with torch.no_grad():
        expected = model(**tokenizer(["world hello hello"], return_tensors="pt"))[0].mean(1)[0]
    assert torch.allclose(torch.tensor(found), expected, atol=2e-3)
