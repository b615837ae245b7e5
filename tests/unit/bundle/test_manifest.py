from __future__ import annotations

import inspect
import json
import pickle
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from npu_persist.bundle import document as strict
from npu_persist.bundle import manifest as room
from npu_persist.bundle.graph_records import Bounds, Buckets, Padding, TensorNode, TupleNode, ValueNode
from npu_persist.bundle.manifest import FileEntry, Manifest, Producer
from npu_persist.errors import FormatVersionError, ManifestError, NpuPersistError
from npu_persist.files.digest import digest_bytes
from tests.support.bundles import GOLDEN, TINY_GRAPH, tiny_files, tiny_manifest
from tests.support.manifests import BUCKETS, manifests

if TYPE_CHECKING:
    from collections.abc import Callable

TINY = tiny_manifest()
DIGEST = digest_bytes(b"")
NODE = {"kind": "value", "value": 1}


def _spoiled(change: Callable[[Any], object]) -> bytes:
    document = json.loads(TINY.to_json())
    change(document)
    return json.dumps(document).encode()


def _problems(data: bytes) -> dict[str, str]:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(data)
    assert caught.value.problems
    for problem in caught.value.problems[:20]:
        assert str(problem) in str(caught.value)
    return dict(caught.value.problems)


def test_the_manifest_in_the_docstring_is_one() -> None:
    assert room.__doc__ is not None
    text = room.__doc__[room.__doc__.index("    {") :].replace("blake3:<64 hex digits>", DIGEST)
    manifest = Manifest.from_json(inspect.cleandoc(text).encode())
    assert manifest.graphs[0].signature.result == TupleNode((TensorNode(0), ValueNode(None)))


# What is written comes back


def test_buckets_are_written_where_there_are_some() -> None:
    assert "buckets" not in json.loads(TINY.to_json())["graphs"][0]
    manifest = Manifest.from_json(_spoiled(lambda document: document["graphs"][0].update(buckets=BUCKETS)))
    assert manifest.graphs[0].buckets == Buckets(
        ({"x.0": (1, 16, 4)}, {"x.0": (8, 3, 4)}), {"x.0": Padding(0.5, "left")}
    )
    assert json.loads(manifest.to_json())["graphs"][0]["buckets"] == BUCKETS


@given(manifests())
@settings(max_examples=20, deadline=None)
def test_what_is_written_is_read_back(manifest: Manifest) -> None:
    data = manifest.to_json()
    read = Manifest.from_json(data)
    assert read == manifest
    assert read.to_json() == data
    assert pickle.loads(pickle.dumps(read)) == manifest  # noqa: S301 (our own)


@pytest.mark.parametrize("value", [-0.0, 1e308, 1, True, None, "", "é\n"])
def test_constants_keep_type_and_value(value: Any) -> None:
    graph = replace(TINY_GRAPH, signature=replace(TINY_GRAPH.signature, result=ValueNode(value)))
    result = Manifest.from_json(replace(TINY, graphs=(graph,)).to_json()).graphs[0].signature.result
    assert isinstance(result, ValueNode)
    assert type(result.value) is type(value)
    assert repr(result.value) == repr(value)


def test_equal_manifests_have_equal_bytes_whatever_the_order() -> None:
    backwards = replace(
        TINY, files=dict(reversed([*TINY.files.items()])), metadata=dict(reversed([*TINY.metadata.items()]))
    )
    assert backwards.to_json() == TINY.to_json()
    assert TINY.to_json().endswith(b"}\n")


def test_numbers_that_are_no_python_floats_are_written_as_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    assert TINY.golden is not None
    assert TINY.golden.tolerance is not None
    cosine = replace(TINY.golden, tolerance=replace(TINY.golden.tolerance, cosine=numpy.float32(0.5)))
    assert b'"cosine": 0.5' in replace(TINY, golden=cosine).to_json()


# What is not valid is not written


@pytest.mark.parametrize(
    ("metadata", "location"),
    [
        ({"a": {1, 2}}, "metadata.a"),
        ({"a": {"b": [object()]}}, "metadata.a.b[0]"),
        ({"a": float("nan")}, "metadata.a"),
        ({"a": 2**63}, "metadata.a"),
        ({"a": "\ud800"}, "metadata.a"),
        ({"\ud800": 1}, "metadata"),
        ({1: "a"}, "metadata"),
        ({"a b": b"bytes"}, "metadata['a b']"),
    ],
)
def test_metadata_that_json_cannot_hold_is_refused(metadata: Any, location: str) -> None:
    with pytest.raises(ManifestError) as caught:
        replace(TINY, metadata=metadata).to_json()
    assert location in dict(caught.value.problems)


def test_metadata_that_contains_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict, "MAX_VALUES", 10_000)
    loop: list[Any] = []
    loop.append(loop)
    doubling: list[Any] = []
    for _ in range(90):
        doubling = [doubling, doubling]
    for endless in (loop, doubling):
        with pytest.raises(ManifestError, match="levels of nesting"):
            replace(TINY, metadata={"a": endless}).to_json()


def test_tuples_in_metadata_are_arrays() -> None:
    assert Manifest.from_json(replace(TINY, metadata={"a": (1, 2)}).to_json()).metadata == {"a": [1, 2]}


def test_an_inconsistent_manifest_is_not_written() -> None:
    with pytest.raises(ManifestError, match="what was to be written is not a valid manifest"):
        replace(TINY, graphs=()).to_json()


# What is damaged or hostile is refused, with every problem


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        (("graphs", 0, "inputs", 1, "dtype"), "bfloat16", "expected a known value, got 'bfloat16'"),
        (("graphs", 0, "signature", "parameters", 1, "kind"), 7, "expected text, got 7"),
        (("graphs", 0, "signature", "result", "kind"), "set", "expected a known value, got 'set'"),
        (("weights", "tensors"), -1, "expected an integer >= 0, got -1"),
        (("weights",), [], "expected an object, got an array"),
        (("files", "model.xml", "size"), 1.5, "expected an integer, got 1.5"),
        (("golden", "tolerance", "cosine"), "1", "expected a number, got '1'"),
        (("producer", "torch"), "", "expected text of length >= 1, got ''"),
        (("extra",), 1, "unknown"),
        (("files", "weights.safetensors", "extra"), 1, "unknown"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_place(place: tuple[Any, ...], value: Any, problem: str) -> None:
    location = ""
    for step in place:
        location = f"{location}[{step}]" if isinstance(step, int) else strict.key_location(location, step)
    assert _problems(_spoiled(_set(*place, to=value))) == {location: problem}


@pytest.mark.parametrize(
    "place", [("name",), ("format_version",), ("weights", "tensors"), ("files", "model.xml", "size")]
)
def test_a_missing_member_is_named(place: tuple[str, ...]) -> None:
    def change(document: Any) -> None:
        for step in place[:-1]:
            document = document[step]
        del document[place[-1]]

    location = ""
    for step in place:
        location = strict.key_location(location, step)
    assert _problems(_spoiled(change)) == {location: "expected it, got nothing"}


def test_of_many_files_the_one_that_is_wrong_is_named() -> None:
    def change(document: Any) -> None:
        document["files"].update({f"f{index}": {"size": index, "digest": DIGEST} for index in range(1000)})
        document["files"]["f777"]["size"] = "x"

    assert _problems(_spoiled(change)) == {"files.f777.size": "expected an integer, got 'x'"}


def test_every_broken_rule_is_reported() -> None:
    def change(document: Any) -> None:
        document["name"] = "../unet"
        document["graphs"][0]["inputs"][1]["name"] = "x.0"
        document["weights"]["data_start"] = 1
        document["files"]["model.xml"]["digest"] = "md5"

    assert _problems(_spoiled(change)) == {
        "name": "expected a bundle name, got '../unet', which contains '/'",
        "files['model.xml'].digest": "expected a digest (blake3:<64 hex digits>), got 'md5'",
        "graphs[0].inputs": "expected different names, got 'x.0' twice",
        "weights.data_start": "expected a positive multiple of 4096, got 1",
        "weights.data_size": "expected data_start + data_size to be the file's 4160 bytes, got 65",
    }


@pytest.mark.parametrize("length", range(0, len(TINY.to_json()) - 1, 97))
def test_a_truncated_manifest_is_refused(length: int) -> None:
    with pytest.raises(ManifestError, match="expected JSON in UTF-8"):
        Manifest.from_json(TINY.to_json()[:length])


@pytest.mark.parametrize(
    ("found", "raises"),
    [
        ("2.0", FormatVersionError),
        ("1.1", FormatVersionError),
        ("0.9", FormatVersionError),
        ("10.12", FormatVersionError),
    ]
    + [(found, ManifestError) for found in ("", "1", "1.0.0", "01.0", "v1.0", 1.0, None, ["1.0"], "9" * 9000 + ".0")],
)
def test_an_unknown_format_version_is_refused(found: Any, raises: type[NpuPersistError]) -> None:
    with pytest.raises(raises) as caught:
        Manifest.from_json(_spoiled(lambda document: document.update(format_version=found)))
    if isinstance(caught.value, FormatVersionError):
        assert (caught.value.found, caught.value.supported) == (found, "1.0")
        assert "pip install" in str(caught.value)


def test_a_newer_format_is_named_before_anything_else_is_said_about_it() -> None:
    with pytest.raises(FormatVersionError, match=r"format version 2\.0"):
        Manifest.from_json(b'{"format_version": "2.0", "whatever": []}')


@pytest.mark.parametrize(
    ("data", "location"),
    [
        (TINY.to_json().replace(b'"name": "tiny"', b'"name": "tiny", "name": "tiny"'), "name"),
        (
            TINY.to_json().replace(b'"size": %d' % len(GOLDEN), b'"size": 1, "size": 1, "size": 1'),
            "files['golden.safetensors'].size",
        ),
        (TINY.to_json().replace(b'"author"', b'"a": 1, "a": 2, "author"'), "metadata.a"),
    ],
)
def test_duplicate_keys_are_refused(data: bytes, location: str) -> None:
    assert data != TINY.to_json()
    assert _problems(data) == {location: "expected every key once, got it more than once"}


@pytest.mark.parametrize(
    "path",
    [
        "../model.xml",
        "/model.xml",
        "a/../../m.xml",
        "C:/m.xml",
        "C:m.xml",
        "a\\m.xml",
        "nul.xml",
        "m.xml.",
        "m.xml ",
        "./m.xml",
        "a//m.xml",
        ".m.xml",
        "a" * 200 + ".xml",
        "",
        "con/m.xml",
        "\u00fc.xml",
        "a\0.xml",
    ],
)
def test_a_path_that_leaves_the_folder_or_some_platform_is_refused(path: str) -> None:
    def change(document: Any) -> None:
        document["graphs"][0]["path"] = path
        document["files"][path] = document["files"].pop("model.xml")

    problems = _problems(_spoiled(change))
    assert set(problems) == {"graphs[0].path", strict.key_location("files", path)}


@pytest.mark.parametrize(
    "path",
    [
        "manifest.json",
        "Manifest.JSON",
        "model.bin",
        "MODEL.bin",
        "model.bin/x",
        "compiled/npu-4000/model.blob",
        "Compiled",
    ],
)
def test_files_that_are_not_the_manifests_to_vouch_for_are_refused(path: str) -> None:
    data = _spoiled(lambda document: document["files"].update({path: {"size": 1, "digest": DIGEST}}))
    assert "the manifest does not cover these files" in _problems(data)[strict.key_location("files", path)]


@pytest.mark.parametrize(
    ("paths", "why"),
    [
        (["Model.xml"], "differ in more than case"),
        (["sub/a", "Sub/b"], "differ in more than case"),
        (["sub", "sub/a"], "a file or a folder"),
        (["sub/a", "sub"], "a file or a folder"),
    ],
)
def test_files_that_cannot_stand_side_by_side_are_refused(paths: list[str], why: str) -> None:
    data = _spoiled(lambda document: document["files"].update({path: {"size": 1, "digest": DIGEST} for path in paths}))
    assert why in "".join(_problems(data).values())


def _set(*place: Any, to: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for step in place[:-1]:
            document = document[step]
        document[place[-1]] = to

    return change


@pytest.mark.parametrize(
    ("port", "bounds", "location"),
    [
        (("inputs", 1), {"low": 5, "high": 4}, ".high"),
        (("inputs", 1), {"low": None, "high": None}, ""),
        (("inputs", 1), {"low": 2**63, "high": None}, ".low"),
        (("inputs", 1), {"low": 0.5, "high": 4}, ".low"),
        (("inputs", 1), {"low": 0}, ".high"),
        (("inputs", 1), {"low": 0, "high": 4, "step": 2}, ".step"),
        (("inputs", 1), {"low": 0, "high": None, "below": "no such"}, ".below"),
        (("inputs", 1), [0, 4], ""),
        (("inputs", 0), {"low": 0, "high": 4}, ""),
        (("outputs", 0), {"low": 0, "high": 4}, ""),
    ],
)
def test_bounds_that_are_none_are_refused(port: tuple[str, int], bounds: Any, location: str) -> None:
    def change(document: Any) -> None:
        document["graphs"][0]["inputs"][0]["dtype"] = "float32"
        document["graphs"][0]["inputs"][1]["dtype"] = "int64"
        document["graphs"][0][port[0]][port[1]]["bounds"] = bounds

    assert set(_problems(_spoiled(change))) == {f"graphs[0].{port[0]}[{port[1]}].bounds{location}"}


def test_bounds_are_kept_and_left_out_where_there_are_none() -> None:
    graph = TINY.graphs[0]
    bounded = replace(graph.inputs[1], dtype="int32", bounds=Bounds(-5, 4))
    manifest = replace(TINY, graphs=(replace(graph, inputs=(graph.inputs[0], bounded)),))
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert b'"bounds"' in manifest.to_json()
    assert b'"bounds"' not in TINY.to_json()


def _buckets(**changes: Any) -> Callable[[Any], None]:
    return _set("graphs", 0, "buckets", to={**BUCKETS, **changes})


@pytest.mark.parametrize(
    ("change", "location"),
    [
        (_set("graphs", to=[]), "graphs"),
        (_set("graphs", 0, "path", to="weights.safetensors"), "graphs[0].path"),
        (_set("graphs", 0, "path", to="other.xml"), "graphs[0].path"),
        (_set("graphs", 0, "inputs", 1, "name", to="x.0"), "graphs[0].inputs"),
        (_set("graphs", 0, "inputs", 0, "shape", 0, "max", to=0), "graphs[0].inputs[0].shape[0].max"),
        (
            _set("graphs", 0, "signature", "arguments", 0, 1, to={"kind": "tensor", "index": 0}),
            "graphs[0].signature.arguments",
        ),
        (
            _set("graphs", 0, "signature", "arguments", 1, 1, to={"kind": "tensor", "index": 1}),
            "graphs[0].signature.arguments",
        ),
        (_set("graphs", 0, "signature", "arguments", 1, 0, to="x"), "graphs[0].signature.arguments"),
        (_set("graphs", 0, "signature", "arguments", 1, 0, to="y"), "graphs[0].signature.arguments[1][0]"),
        (_set("graphs", 0, "signature", "parameters", 1, "name", to="x"), "graphs[0].signature.parameters"),
        (
            _set(
                "graphs",
                0,
                "signature",
                "parameters",
                1,
                "default",
                to={"kind": "list", "items": [{"kind": "tensor", "index": 0}]},
            ),
            "graphs[0].signature.parameters[1].default",
        ),
        (_set("graphs", 0, "signature", "result", to={"kind": "tensor", "index": 1}), "graphs[0].signature.result"),
        (
            _set("graphs", 0, "signature", "result", to={"kind": "dict", "items": [[1, NODE], [1, NODE]]}),
            "graphs[0].signature.result",
        ),
        (
            _set("graphs", 0, "signature", "result", to={"kind": "record", "type": "T", "fields": [["a", NODE]] * 2}),
            "graphs[0].signature.result",
        ),
        (_buckets(shapes=[]), "graphs[0].buckets.shapes"),
        (_buckets(shapes=[{}]), "graphs[0].buckets.shapes[0]"),
        (_buckets(shapes=[{"x.0": [1, 2, 4], "x.1": []}]), "graphs[0].buckets.shapes[0]"),
        (_buckets(shapes=[{"x.0": [1, 2]}]), "graphs[0].buckets.shapes[0]['x.0']"),
        (_buckets(shapes=[{"x.0": [1, 2, 5]}]), "graphs[0].buckets.shapes[0]['x.0']"),
        (_buckets(shapes=[{"x.0": [9, 2, 4]}]), "graphs[0].buckets.shapes[0]['x.0']"),
        (_buckets(shapes=[{"x.0": [1, 0, 4]}]), "graphs[0].buckets.shapes[0]['x.0']"),
        (_buckets(padding={}), "graphs[0].buckets.padding"),
        (_buckets(padding={"y": {"value": 0, "side": "left"}}), "graphs[0].buckets.padding"),
        (_buckets(padding={"x.0": {"value": 0, "side": "top"}}), "graphs[0].buckets.padding['x.0'].side"),
        (_set("weights", "data_start", to=4095), "weights.data_start"),
        (_set("weights", "data_start", to=0), "weights.data_start"),
        (_set("weights", "data_size", to=65), "weights.data_size"),
        (_set("weights", "path", to="other.safetensors"), "weights.path"),
        (_set("golden", "path", to="other.safetensors"), "golden.path"),
        (_set("golden", "path", to="weights.safetensors"), "files"),
        (_set("files", "model.xml", "digest", to=DIGEST.upper()), "files['model.xml'].digest"),
        (_set("files", "model.xml", "size", to=-1), "files['model.xml'].size"),
        (_set("files", "model.xml", "size", to=True), "files['model.xml'].size"),
        (_set("files", "model.xml", "size", to=2**63), "files['model.xml'].size"),
        (_set("golden", "tolerance", "cosine", to=float("nan")), "golden.tolerance.cosine"),
        (_set("golden", "differences", 0, "max_abs", to=float("inf")), "golden.differences[0].max_abs"),
    ],
)
def test_a_manifest_that_does_not_agree_with_itself_is_refused(change: Callable[[Any], None], location: str) -> None:
    assert location in _problems(_spoiled(change))


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"null", b"[]", b"3", b'"text"', b"{}", b"\xff\xfe", b"\xef\xbb\xbf{}", b"{'name': 1}", b"{} {}", b"\0"),
        *(b"[" * 100_000, b'{"a":' * 100_000, b"[" * 101 + b"]" * 101, b"[1e999]", b"[" + b"9" * 10_000 + b"]"),
        *(b'["\\ud800"]', b'{"\\ud800": 1, "\\ud800": 2}', b"[-Infinity]", b'{"name": NaN}'),
    ],
)
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    _problems(data)


@pytest.mark.parametrize("data", [b" " * (strict.MAX_SIZE + 1), b"[" + b"[]," * strict.MAX_VALUES + b"[]]"])
def test_too_much_is_refused_before_it_is_parsed(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(ManifestError, match="expected at most"):
        Manifest.from_json(data)


def test_many_values_at_the_end_of_long_keys_take_little_memory() -> None:
    tracemalloc = pytest.importorskip("tracemalloc")
    keys = b'{"' + b"k" * 60 + b'":'
    data = keys * 90 + b"[" + b"0," * 100_000 + b"0]" + b"}" * 90
    tracemalloc.start()
    try:
        _problems(data)
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


def test_many_problems_make_a_short_message() -> None:
    data = _spoiled(
        lambda document: document["files"].update(
            {f"../{index}": {"size": 1, "digest": DIGEST} for index in range(5000)}
        )
    )
    with pytest.raises(ManifestError, match="and 980 more") as caught:
        Manifest.from_json(data)
    assert len(str(caught.value)) < 5000


def test_long_values_make_a_short_message() -> None:
    data = _spoiled(lambda document: document.update({"x" * 10_000: 1, "name": "y" * 100_000}))
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(data)
    assert len(str(caught.value)) < 1000


def test_too_many_files_are_refused() -> None:
    files = {f"f{index}": FileEntry(0, DIGEST) for index in range(10_001)}
    with pytest.raises(ManifestError, match="files: expected an object of at most 10000 members"):
        replace(TINY, files={**TINY.files, **files}).to_json()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_bytes_changed_anywhere_give_our_errors_only(data: st.DataObject) -> None:
    original = TINY.to_json()
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(changed)))
        end = data.draw(st.integers(start, min(len(changed), start + 20)))
        changed[start:end] = data.draw(
            st.binary(max_size=4) | st.sampled_from([b'"', b"{", b"]", b",", b"null", b"\\u"])
        )
    with suppress(ManifestError, FormatVersionError):
        Manifest.from_json(bytes(changed))


# Small things


def test_a_manifest_without_torch_golden_or_metadata_is_one() -> None:
    files = {path: entry for path, entry in TINY.files.items() if path != "golden.safetensors"}
    bare = replace(TINY, producer=Producer("0", "0", None), golden=None, files=files, metadata={}, warnings=())
    assert Manifest.from_json(bare.to_json()) == bare


def test_errors_name_their_source() -> None:
    with pytest.raises(ManifestError, match=r"^/store/unet/3/manifest\.json is not a valid manifest"):
        Manifest.from_json(b"{}", source="/store/unet/3/manifest.json")


def test_the_tiny_bundle_is_what_its_manifest_says() -> None:
    assert {path: FileEntry(len(data), digest_bytes(data)) for path, data in tiny_files().items()} == TINY.files


# Several graphs


def _two(change: Callable[[Any], None] = lambda _: None) -> bytes:
    """Return a manifest of two graphs with a golden sample each, changed."""

    def make(document: Any) -> None:
        document["graphs"].append({**document["graphs"][0], "name": "second", "path": "second.xml"})
        document["goldens"] = {
            "main": document["golden"],
            "second": {**document["golden"], "path": "second.golden.safetensors"},
        }
        document["golden"] = None
        for path in ("second.xml", "second.golden.safetensors"):
            document["files"][path] = {"size": 1, "digest": DIGEST}
        change(document)

    return _spoiled(make)


def test_each_graph_may_have_a_golden_sample() -> None:
    manifest = Manifest.from_json(_two())
    first, second = manifest.graphs
    assert manifest.golden_of(first) == manifest.goldens["main"]
    assert manifest.golden_of(second) == manifest.goldens["second"] != manifest.goldens["main"]
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert TINY.golden_of(TINY.graphs[0]) == TINY.golden
    assert b"goldens" not in TINY.to_json()


@pytest.mark.parametrize(
    ("place", "value", "location", "problem"),
    [
        (("graphs", 1, "name"), "main", "graphs", "expected different graph names, got 'main' twice"),
        (("graphs", 1, "name"), "MAIN", "graphs", "expected different graph names, got 'main' twice"),
        (("graphs", 1, "name"), "../../x", "graphs[1].name", "expected a valid file name, got '../../x'"),
        (("graphs", 1, "name"), "a/b", "graphs[1].name", "expected a valid file name"),
        (("graphs", 1, "name"), "nul", "graphs[1].name", "expected a valid file name"),
        (("graphs", 1, "name"), "a\nb", "graphs[1].name", "expected a valid file name"),
        (("graphs", 1, "path"), "model.xml", "graphs", "expected different graph paths, got 'model.xml' twice"),
        (("graphs", 1, "path"), "../second.xml", "graphs[1].path", "expected a relative path"),
        (("graphs", 1, "path"), "other.xml", "graphs[1].path", "expected a path that is in files"),
        (("goldens", "second", "path"), "../golden", "goldens.second.path", "expected a relative path"),
        (("goldens", "second", "path"), "other", "goldens.second.path", "expected a path that is in files"),
        (("goldens", "second", "path"), "golden.safetensors", "files", "got one file for two"),
        (("goldens", "second", "path"), "weights.safetensors", "files", "got one file for two"),
        (("goldens", "third"), {"path": "golden.safetensors", "tolerance": None, "differences": None}, "goldens.third",
         "expected the name of a graph"),
        (("files", "second.bin"), {"size": 1, "digest": DIGEST}, "files['second.bin']", "does not cover these files"),
        (("files", "Model.xml"), {"size": 1, "digest": DIGEST}, "files['Model.xml']", "differ in more than case"),
    ],
)  # fmt: skip
def test_graphs_that_get_in_each_others_way_are_refused(
    place: tuple[Any, ...], value: Any, location: str, problem: str
) -> None:
    with pytest.raises(ManifestError) as raised:
        Manifest.from_json(_two(_set(*place, to=value)))
    assert any(one.location == location and problem in one.message for one in raised.value.problems)
