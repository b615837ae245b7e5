from __future__ import annotations

import itertools
import json
import struct
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from npu_persist.bundle.weights import (
    BIT_SIZES,
    ITEM_SIZES,
    MAX_DEPTH,
    MAX_RANK,
    Tensor,
    check_graph,
    lay_out,
    read_header,
    write,
)
from npu_persist.errors import GraphIntegrityError
from npu_persist.files.digest import digest_file

if TYPE_CHECKING:
    from pathlib import Path

DATA_START = 4096
TENSORS: dict[str, tuple[str, tuple[int, ...], int]] = {
    "layer.bias": ("F16", (3,), 6),
    "layer.weight": ("F32", (3, 2), 24),
    "empty": ("F32", (0, 4), 0),
    "flag": ("BOOL", (), 1),
    "\u00fcber \U0001f600": ("I64", (1,), 8),
}
METADATA = {"format": "pt", "tied": "layer.weight"}


def write_file(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], int]] | None = None) -> bytes:
    """Write a weights file whose data counts up, and return its content."""
    tensors = TENSORS if tensors is None else tensors
    header, _ = lay_out(tensors, METADATA)
    path.unlink(missing_ok=True)
    write(path, header, [bytes(index % 256 for index in range(sum(size for _, _, size in tensors.values())))], _ignore)
    return path.read_bytes()


def _ignore(_: int) -> None:
    """Take a report."""


def safetensors_file(entries: Any, data: bytes = b"") -> bytes:
    """Return a file with this header, whatever it is."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


class TestLayOut:
    def test_data_starts_on_a_page_and_every_tensor_is_aligned(self) -> None:
        header, starts = lay_out(TENSORS, METADATA)
        assert len(header) == DATA_START
        assert int.from_bytes(header[:8], "little") == DATA_START - 8
        assert header.rstrip(b" ").endswith(b"}")
        assert min(starts.values()) == DATA_START
        for name, (dtype, _, _) in TENSORS.items():
            assert starts[name] % ITEM_SIZES[dtype] == 0
        ordered = sorted(TENSORS, key=lambda name: (starts[name], TENSORS[name][2]))
        for first, second in itertools.pairwise(ordered):
            assert starts[first] + TENSORS[first][2] == starts[second]

    def test_the_order_of_what_is_given_does_not_matter(self) -> None:
        backwards = dict(reversed(list(TENSORS.items())))
        assert lay_out(backwards, dict(reversed(list(METADATA.items())))) == lay_out(TENSORS, METADATA)

    def test_a_header_longer_than_a_page_takes_more_pages(self) -> None:
        many = {f"layer.{index}": ("U8", (1,), 1) for index in range(200)}
        header, starts = lay_out(many, {})
        assert len(header) > DATA_START
        assert len(header) % DATA_START == 0
        assert min(starts.values()) == len(header)

    def test_nothing_at_all_is_a_file_too(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.safetensors"
        header, starts = lay_out({}, {})
        write(path, header, [], _ignore)
        assert starts == {}
        assert read_header(path).tensors == {}


class TestWrite:
    def test_returns_the_digest_and_reports_every_chunk(self, tmp_path: Path) -> None:
        header, _ = lay_out({"a": ("U8", (6,), 6)}, {})
        reports: list[int] = []
        path = tmp_path / "weights.safetensors"
        digest = write(path, header, [b"abc", memoryview(b"def")], reports.append)
        assert reports == [4096, 4099, 4102]
        assert path.read_bytes() == header + b"abcdef"
        assert digest == digest_file(path)

    def test_does_not_overwrite(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.safetensors"
        path.write_bytes(b"mine")
        with pytest.raises(FileExistsError):
            write(path, b"", [], _ignore)
        assert path.read_bytes() == b"mine"


class TestReadHeader:
    def test_gives_back_what_was_laid_out(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.safetensors"
        write_file(path)
        header = read_header(path)
        _, starts = lay_out(TENSORS, METADATA)
        assert header.data_start == DATA_START
        assert header.metadata == METADATA
        assert header.tensors == {
            name: Tensor(dtype, shape, starts[name], size) for name, (dtype, shape, size) in TENSORS.items()
        }

    def test_reads_what_the_library_writes(self, tmp_path: Path) -> None:
        numpy = pytest.importorskip("numpy")
        library = pytest.importorskip("safetensors.numpy", reason="compares with the safetensors library")
        arrays = {
            "a": numpy.arange(6, dtype="float32").reshape(2, 3),
            "b": numpy.array([True]),
            "c": numpy.zeros((0, 2)),
        }
        path = tmp_path / "library.safetensors"
        library.save_file(arrays, path, {"key": "value"})
        header = read_header(path)
        content = path.read_bytes()
        assert header.metadata == {"key": "value"}
        for name, array in arrays.items():
            tensor = header.tensors[name]
            assert tensor.shape == array.shape
            assert content[tensor.start : tensor.start + tensor.size] == array.tobytes()

    def test_the_library_reads_what_we_write(self, tmp_path: Path) -> None:
        library = pytest.importorskip("safetensors.numpy", reason="compares with the safetensors library")
        path = tmp_path / "weights.safetensors"
        content = write_file(path)
        header = read_header(path)
        loaded = library.load_file(path)
        assert loaded.keys() == TENSORS.keys()
        for name, array in loaded.items():
            tensor = header.tensors[name]
            assert array.shape == tensor.shape
            assert array.tobytes() == content[tensor.start : tensor.start + tensor.size]

    @pytest.mark.parametrize("length", [0, 3, 7, 8, 9, 100, 4095, 4096, 4100])
    def test_a_file_that_ends_early_is_refused(self, tmp_path: Path, length: int) -> None:
        path = tmp_path / "weights.safetensors"
        path.write_bytes(write_file(path)[:length])
        with pytest.raises(GraphIntegrityError, match=r"weights\.safetensors: expected .*; got "):
            read_header(path)

    def test_a_file_that_goes_on_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.safetensors"
        path.write_bytes(write_file(path) + b"\0")
        with pytest.raises(GraphIntegrityError, match=r"expected 4135 bytes as its header says; got 4136"):
            read_header(path)

    @pytest.mark.parametrize("length", [0, 1, 5, 10**8 + 1, 2**63, 2**64 - 1])
    def test_an_absurd_length_is_refused(self, tmp_path: Path, length: int) -> None:
        path = tmp_path / "weights.safetensors"
        path.write_bytes(struct.pack("<Q", length) + b"{}  ")
        with pytest.raises(GraphIntegrityError, match=rf"a header of 2 to 4 bytes; got length {length}\b"):
            read_header(path)

    def test_a_length_beyond_the_limit_is_refused_though_the_file_is_that_long(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.safetensors"
        with path.open("wb") as file:
            file.write(struct.pack("<Q", 100_000_001) + b"{}")
            file.truncate(100_000_100)  # a sparse file
        with pytest.raises(GraphIntegrityError, match=r"length 100000001"):
            read_header(path)

    @pytest.mark.parametrize(
        ("entries", "size", "reason"),
        [
            ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}, 3, r"byte \d+, without holes.*one at"),
            (
                {
                    "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
                    "b": {"dtype": "U8", "shape": [2], "data_offsets": [3, 5]},
                },
                5,
                "without holes",
            ),
            (
                {
                    "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
                    "b": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]},
                },
                3,
                "without holes or overlaps",
            ),
            ({"a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}, 8, "bytes as its header says"),
            ({"a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 2]}}, 2, r"U8\[3\] in 2 bytes"),
            ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 3]}}, 3, r"F32\[3\] in 3 bytes"),
            ({"a": {"dtype": "U8", "shape": [-1, -2], "data_offsets": [0, 2]}}, 2, "ValueError"),
            ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [2, 0]}}, 2, "ValueError"),
            ({"a": {"dtype": "U8", "shape": [2], "data_offsets": [-2, 0]}}, 2, "ValueError"),
            ({"a": {"dtype": "U8", "shape": [2.0], "data_offsets": [0, 2]}}, 2, "ValueError"),
            ({"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, 1, "ValueError"),
            ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [False, True]}}, 1, "ValueError"),
            ({"a": {"dtype": "U8", "shape": {}, "data_offsets": [0, 1]}}, 1, "ValueError"),
            ({"a": {"dtype": "U8", "shape": [1] * (MAX_RANK + 1), "data_offsets": [0, 1]}}, 1, "ValueError"),
            ({"a": {"dtype": "U8", "shape": [2**63, 2**63, 0], "data_offsets": [0, 0]}}, 0, "ValueError"),
            ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]}}, 1, "ValueError"),
            ({"a": {"dtype": "U8", "shape": [1], "data_offsets": "01"}}, 1, "ValueError"),
            ({"a": {"dtype": "F7", "shape": [1], "data_offsets": [0, 1]}}, 1, "KeyError: 'F7'"),
            ({"a": {"dtype": ["U8"], "shape": [1], "data_offsets": [0, 1]}}, 1, "TypeError"),
            ({"a": {"dtype": "U8", "shape": [1]}}, 1, "KeyError: 'data_offsets'"),
            ({"a": None}, 1, "TypeError"),
            ({"__metadata__": {"a": 1}}, 0, "TypeError"),
            ({"__metadata__": ["a"]}, 0, "AttributeError"),
            ({"__metadata__": None}, 0, "AttributeError"),
            ([], 0, "a safetensors header"),
            (None, 0, "a safetensors header"),
            ("name", 0, "a safetensors header"),
            (b"{}}", 0, "a safetensors header; got JSONDecodeError"),
            (b'{"a": NaN}', 0, "a safetensors header"),
            (b"\xff\xfe{}", 0, "a safetensors header; got UnicodeDecodeError"),
            (b'\xef\xbb\xbf{"a": 1}', 0, "a safetensors header"),
            (b'{"a": ' + b"[" * 100_000, 0, "a safetensors header"),
            (b'{"a":' * 100_000, 0, "a safetensors header"),
            (b'{"a": {"dtype": "U8", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 1]}}', 1, "ValueError"),
        ],
    )
    def test_a_header_that_is_none_is_refused(self, tmp_path: Path, entries: Any, size: int, reason: str) -> None:
        path = tmp_path / "weights.safetensors"
        path.write_bytes(safetensors_file(entries, bytes(size)))
        with pytest.raises(GraphIntegrityError, match=reason) as caught:
            read_header(path)
        assert len(str(caught.value)) < 1000

    def test_a_name_that_stands_twice_is_refused(self, tmp_path: Path) -> None:
        entry = '"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}'
        path = tmp_path / "weights.safetensors"
        path.write_bytes(safetensors_file(f"{{{entry}, {entry}}}".encode(), b"\0"))
        with pytest.raises(GraphIntegrityError, match="a name that stands twice"):
            read_header(path)

    def test_a_shape_of_huge_numbers_takes_no_time(self, tmp_path: Path) -> None:
        huge = str(10**4000)
        text = f'{{"a": {{"dtype": "U8", "shape": [{",".join([huge] * 20_000)}], "data_offsets": [0, 1]}}}}'
        path = tmp_path / "weights.safetensors"
        path.write_bytes(safetensors_file(text.encode(), b"\0"))
        started = time.process_time()
        with pytest.raises(GraphIntegrityError, match="a number of 4001 digits"):
            read_header(path)
        assert time.process_time() - started < 5  # reading all of them takes Python twice that


def net(*constants: str, before: str = "", after: str = "") -> str:
    """Return the text of an IR, as far as the scan looks at it, with these attributes of constants."""
    layers = "".join(
        f'<layer id="{index}" name="c{index}" type="Const" version="opset1"><data {data}/><output/></layer>'
        for index, data in enumerate(constants)
    )
    return f'<?xml version="1.0"?>{before}<net name="main" version="11"><layers>{layers}</layers>{after}</net>'


GOOD = 'element_type="f32" shape="3, 2" offset="4104" size="24"'


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A weights file: an i64 at byte 4096, six f32 at 4104, three f16 at 4128, one flag at 4134."""
    path = tmp_path / "weights.safetensors"
    write_file(path)
    return path


def scan(weights: Path, text: str | bytes) -> Any:
    graph = weights.with_name("model.xml")
    graph.write_bytes(text if isinstance(text, bytes) else text.encode())
    return check_graph(graph, weights)


class TestCheckGraph:
    @pytest.mark.parametrize(
        "constant",
        [
            GOOD,
            'element_type="i64" shape="" offset="4096" size="8"',
            'element_type="f16" shape="3" offset="4128" size="6"',
            'element_type="boolean" shape="1" offset="4134" size="1"',
            'element_type="u4" shape="3" offset="4133" size="2"',
            'element_type="f32" shape="0,7" offset="4104" size="0"',
            'element_type="u8" shape="0" offset="4135" size="0"',
            'element_type="u8" shape="2" offset="4096" size="39"',
        ],
    )
    def test_a_constant_inside_of_the_data_passes(self, weights: Path, constant: str) -> None:
        assert scan(weights, net(constant)) == read_header(weights)

    def test_attributes_of_other_layers_are_not_looked_at(self, weights: Path) -> None:
        prior_box = '<layer type="PriorBox"><data offset="0.5" size="x"/></layer>'
        scan(weights, net(GOOD, after=f'{prior_box}<data offset="-1"/><rt_info><a value="b"/></rt_info>'))

    @pytest.mark.parametrize(
        ("constant", "reason"),
        [
            ('element_type="f32" shape="2" offset="4092" size="8"', "between byte 4096 and byte 4135"),
            ('element_type="u8" shape="8" offset="0" size="8"', "got 8 bytes at 0"),
            ('element_type="u8" shape="1" offset="4135" size="1"', "got 1 bytes at 4135"),
            ('element_type="u8" shape="40" offset="4096" size="40"', "got 40 bytes at 4096"),
            ('element_type="u8" shape="1" offset="999999999999999999" size="1"', "bytes at 999999999999999999"),
            ('element_type="u8" shape="1" offset="4096" size="999999999999999999"', "999999999999999999 bytes"),
            # OpenVINO adds these up to less than the file's size.
            ('element_type="u8" shape="8" offset="18446744073709551608" size="16"', "a type, shape, offset and size"),
            # OpenVINO's product of these overflows to 0.
            ('element_type="f32" shape="4611686018427387904,4" offset="4104" size="16"', "a type, shape"),
            ('element_type="f32" shape="576460752303423488,32" offset="4104" size="16"', "as large as their shape"),
            ('element_type="f32" shape="3,3" offset="4104" size="24"', "as large as their shape"),
            ('element_type="u4" shape="5" offset="4096" size="2"', "as large as their shape"),
            ('element_type="f32" shape="2" offset="4105" size="8"', "aligned"),
            ('element_type="i64" shape="2" offset="4100" size="16"', "aligned"),
            ('element_type="f32" shape="-1" offset="4104" size="4"', "a type, shape"),
            ('element_type="f32" shape="2,,2" offset="4104" size="16"', "a type, shape"),
            ('element_type="f32" shape="?" offset="4104" size="16"', "a type, shape"),
            ('element_type="f32" offset="4104" size="24"', "a type, shape"),
            ('element_type="f32" shape="2" offset="4104"', "a type, shape"),
            ('element_type="f32" shape="2" size="8"', "a type, shape"),
            ('shape="2" offset="4104" size="8"', "a type, shape"),
            ('element_type="string" shape="1" offset="4104" size="8"', "a type, shape"),
            ('element_type="dynamic" shape="1" offset="4104" size="8"', "a type, shape"),
            # OpenVINO would read the numbers up to the first character that is no digit.
            ('element_type="u8" shape="1" offset="4_100" size="1"', "a type, shape"),
            ('element_type="u8" shape="1" offset="4100.5" size="1"', "a type, shape"),
            ('element_type="u8" shape="1" offset=" 4100" size="1"', "a type, shape"),
            ('element_type="u8" shape="1" offset="+4100" size="1"', "a type, shape"),
            ('element_type="u8" shape="1" offset="\u0664\u0661\u0660\u0660" size="1"', "a type, shape"),
            # OpenVINO takes the text as the data, however large the shape.
            ('element_type="f32" shape="2" offset="4104" size="8" value="x"', "a type, shape"),
            ('element_type="f32" shape="1000000" value="x"', "a type, shape"),
            (f'element_type="u8" shape="{",".join("1" * MAX_RANK)}" offset="4096" size="1"', "a type, shape"),
        ],
    )
    def test_a_constant_that_is_not_in_the_data_is_refused(self, weights: Path, constant: str, reason: str) -> None:
        for text in (net(constant), net(GOOD, constant), net(constant, GOOD), _in_loop(constant)):
            with pytest.raises(GraphIntegrityError, match=reason) as caught:
                scan(weights, text)
            assert "model.xml" in str(caught.value)

    def test_the_layer_is_the_one_that_holds_the_data(self, weights: Path) -> None:
        inner = '<body><layers><layer type="Relu"><data/></layer></layers></body>'
        text = f'<net><layers><layer type="Const">{inner}<data value="x"/></layer></layers></net>'
        with pytest.raises(GraphIntegrityError, match="a type, shape"):
            scan(weights, text)

    def test_a_type_spelled_with_character_references_is_seen(self, weights: Path) -> None:
        text = '<net><layer type="Con&#115;t"><data element_type="f32" shape="2" value="x"/></layer></net>'
        with pytest.raises(GraphIntegrityError, match="a type, shape"):
            scan(weights, text)

    @pytest.mark.parametrize(
        "doctype",
        [
            "<!DOCTYPE net>",
            '<!DOCTYPE net [<!ENTITY start "0">]>',
            '<!DOCTYPE net SYSTEM "file:///etc/passwd">',
            '<!DOCTYPE net [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;"><!ENTITY c "&b;&b;&b;">]>',
        ],
    )
    def test_a_document_type_is_refused(self, weights: Path, doctype: str) -> None:
        with pytest.raises(GraphIntegrityError, match=r"an IR without a document type; got <!DOCTYPE>"):
            scan(weights, net(GOOD, before=doctype))

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{}",
            "<net>",
            net(GOOD)[:-6],
            net(GOOD).replace('size="24"', 'size="&size;"'),
            net(GOOD).replace('size="24"', 'size="24" size="24"'),
            net(GOOD) + "<net/>",
            net(GOOD).replace("Const", "Con\0st"),
            b'<net name="\xff"/>',
            net(GOOD).replace('"1.0"', '"1.0" encoding="utf-16"').encode("utf-16"),
            net(GOOD).encode("utf-16-le"),
            net(GOOD).encode("utf-32"),
            net(GOOD).encode("utf-8-sig"),
            " " + net(GOOD),
        ],
    )
    def test_what_is_no_utf8_xml_is_refused(self, weights: Path, text: str | bytes) -> None:
        with pytest.raises(GraphIntegrityError, match=r"model\.xml: expected well-formed XML; got"):
            scan(weights, text)

    def test_deep_nesting_is_refused(self, weights: Path) -> None:
        room = MAX_DEPTH - 1
        scan(weights, net(GOOD, after="<a>" * room + "</a>" * room))
        with pytest.raises(GraphIntegrityError, match=f"at most {MAX_DEPTH} elements inside each other"):
            scan(weights, net(GOOD, after="<a>" * MAX_DEPTH + "</a>" * MAX_DEPTH))
        with pytest.raises(GraphIntegrityError, match="elements inside each other"):
            scan(weights, net(GOOD, after="<a>" * 1_000_000))

    def test_a_range_in_the_runtime_attributes_is_refused(self, weights: Path) -> None:
        attribute = '<attribute name="WeightlessCacheAttribute" version="0" type="f32" offset="99999" size="99999"/>'
        with pytest.raises(GraphIntegrityError, match="WeightlessCacheAttribute"):
            scan(weights, net(GOOD, after=f"<rt_info>{attribute}</rt_info>"))

    def test_a_graph_of_absurd_length_is_refused(self, weights: Path) -> None:
        graph = weights.with_name("model.xml")
        with graph.open("wb") as file:
            file.truncate((1 << 28) + 1)  # a sparse file
        with pytest.raises(GraphIntegrityError, match="at most 268435456 bytes; got 268435457"):
            check_graph(graph, weights)

    def test_the_weights_are_checked_too(self, weights: Path) -> None:
        weights.write_bytes(b"no safetensors file")
        with pytest.raises(GraphIntegrityError, match=r"weights\.safetensors: expected a header"):
            scan(weights, net(GOOD))


def _in_loop(constant: str) -> str:
    body = f'<body><layers><layer type="Const"><data {constant}/></layer></layers></body>'
    return f'<net><layers><layer type="TensorIterator">{body}</layer></layers></net>'


@st.composite
def mutations(draw: st.DrawFn, content: bytes) -> bytes:
    """Content with a few changes: bytes replaced, inserted or removed, digits changed, pieces repeated."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(changed) - 1, 0)))
        count = draw(st.sampled_from([0, 1, 1, 2, 8]))
        piece = draw(
            st.one_of(
                st.binary(max_size=4),
                st.sampled_from(
                    [b"-", b"0", b"9", b"[", b"]", b'"', b"{", b"}", b",", b"<", b"/>", b"&", b"1e9", b"null"]
                ),
                st.just(bytes(changed[at : at + 12])),
            )
        )
        changed[at : at + count] = piece
    return bytes(changed)


FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HEADER, _ = lay_out({**TENSORS}, METADATA)
TEXT = HEADER.rstrip()[8:]


@FUZZ
@given(mutations(TEXT), st.integers(-3, 3))
@example(TEXT, 0)
def test_a_changed_header_is_read_in_its_file_or_refused(tmp_path: Path, text: bytes, slip: int) -> None:
    path = tmp_path / "fuzz.safetensors"
    size = 8 + len(text) + 39
    path.write_bytes(struct.pack("<q", max(len(text) + slip, 0)) + text + bytes(39))
    try:
        header = read_header(path)
    except GraphIntegrityError:
        return
    for tensor in header.tensors.values():
        assert header.data_start <= tensor.start <= tensor.start + tensor.size <= size
    assert all(isinstance(value, str) for value in header.metadata.values())


@FUZZ
@given(mutations(net(GOOD, 'element_type="f16" shape="3" offset="4128" size="6"', after="<rt_info/>").encode()))
def test_a_changed_graph_stays_in_its_weights_or_is_refused(tmp_path: Path, text: bytes) -> None:
    import xml.etree.ElementTree as ET

    path = tmp_path / "weights.safetensors"
    if not path.exists():
        write_file(path)
    try:
        scan(path, text)
    except GraphIntegrityError:
        return
    try:
        root = ET.fromstring(text)  # noqa: S314 - the scan has refused document types
    except ET.ParseError:  # names with a colon, which only this parser minds
        return
    for layer in root.iter("layer"):
        for data in layer.findall("data") if layer.get("type") == "Const" else ():
            start, size = int(data.get("offset", "")), int(data.get("size", ""))
            assert DATA_START <= start <= start + size <= 4135
            elements = 1
            for axis in filter(None, data.get("shape", "").split(",")):
                elements *= int(axis)
            assert elements * BIT_SIZES[data.get("element_type", "")] <= size * 8
