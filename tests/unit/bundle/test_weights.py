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
    ITEM_SIZES,
    MAX_RANK,
    Tensor,
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
        with pytest.raises(GraphIntegrityError, match="a name that occurs twice"):
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
