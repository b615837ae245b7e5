from __future__ import annotations

import io
import os
import pickle
import random
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npu_persist.artifact.blob import MAX_TEXT, MAX_TRAILER, Blob, parse_requirements, read_blob, read_blob_file
from npu_persist.errors import ArtifactError, BlobError
from tests.support.blobs import DESCRIPTOR, NPU_TRAILERS, WEIGHTLESS_PAYLOAD, cpu_blob, npu_blob, npu_trailer, real_blob

if TYPE_CHECKING:
    from pathlib import Path

MUTATIONS = 100_000


def read(data: bytes, **options: object) -> Blob:
    return read_blob_file(io.BytesIO(data), len(data), **options)  # type: ignore[arg-type]


class TestNpu:
    @pytest.mark.parametrize(
        ("name", "tiles", "elf", "mi"),
        [("3720", 2, "1.2.0", "7.0.4"), ("4000", 4, "1.2.2", "11.4.10"), ("5010", 3, "2.0.0", "11.13.0"),
         ("5020", 1, "2.2.0", "11.13.0")],
    )  # fmt: skip
    def test_what_the_compiler_wrote(self, name: str, tiles: int, elf: str, mi: str) -> None:
        found = read(real_blob(name), kind="NPU")
        assert found.requirements is not None
        assert (found.requirements.platform, found.requirements.tiles) == (name, tiles)
        assert (found.requirements.elf, found.requirements.mi) == (elf, mi)
        assert (found.metadata_version, found.openvino, found.compiler) == ((2, 7), "2026.4.1", "8.4")
        assert (found.weightless, found.encrypted, found.is_elf, found.unknown) == (False, False, True, ())
        assert str(found.requirements) == (
            f"meta=2.7;ov=2026.4.1;desc=[compiler=8.4;npu={name};t={tiles};elf={elf};mi={mi}]"
        )

    def test_one_that_leaves_the_weights_out(self) -> None:
        found = read(real_blob("4000 weightless"))
        assert found.weightless is True
        assert found.init_sizes == (425_984,)
        assert found.payload_size == WEIGHTLESS_PAYLOAD

    @given(
        version=st.tuples(st.just(2), st.integers(0, 7)),
        openvino=st.tuples(*[st.integers(0, 0xFFFF)] * 3),
        init_sizes=st.lists(st.integers(1, 2**20), max_size=40).map(tuple),
        batch=st.integers(-1, 2**31),
        inputs=st.lists(st.text("NCHW[.]", max_size=40), max_size=30).map(tuple),
        outputs=st.lists(st.text("NCHW[.]", max_size=40), max_size=30).map(tuple),
        compiler=st.tuples(st.integers(1, 0xFFFF), st.integers(0, 0xFFFF)),
        encrypted=st.integers(0, 1),
        padding=st.integers(0, 4096),
    )
    def test_every_version_reads_back_what_was_written(  # noqa: PLR0913, PLR0917 (a line each of the format)
        self,
        version: tuple[int, int],
        openvino: tuple[int, int, int],
        init_sizes: tuple[int, ...],
        batch: int,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        compiler: tuple[int, int],
        encrypted: int,
        padding: int,
    ) -> None:
        trailer = npu_trailer(
            version=version, openvino=openvino, init_sizes=init_sizes, batch=batch, inputs=inputs, outputs=outputs,
            compiler=compiler, encrypted=encrypted, padding=padding,
        )  # fmt: skip
        payload = 64 + sum(init_sizes)
        file = SparseFile(npu_blob(trailer, 64)[:64], payload, trailer)
        found = read_blob_file(file, file.size)
        minor = version[1]
        assert (found.kind, found.payload_size, found.metadata_version) == ("NPU", payload, version)
        assert found.openvino == ".".join(map(str, openvino))
        assert found.init_sizes == (init_sizes if minor >= 1 else ())
        assert found.weightless == (bool(init_sizes) if minor >= 1 else None)
        assert found.batch == ((batch or None) if minor >= 2 else None)
        assert found.compiler == (f"{compiler[0]}.{compiler[1]}" if minor >= 4 else None)
        assert found.encrypted == (encrypted == 1 if minor >= 5 else None)
        assert found.requirements is not None
        assert found.requirements.platform == ("4000" if minor >= 6 else None)
        assert found.unknown == ()

    @pytest.mark.parametrize("version", [(1, 0), (2, 8), (3, 0), (0, 7), (0xFFFF, 0xFFFF)])
    def test_another_layout_is_not_guessed_at(self, version: tuple[int, int]) -> None:
        found = read(npu_blob(struct.pack("<HH", version[1], version[0]) + npu_trailer()[4:]))
        assert (found.kind, found.metadata_version) == ("NPU", version)
        assert (found.openvino, found.requirements, found.weightless, found.encrypted) == (None, None, None, None)
        assert f"{version[0]}.{version[1]}" in found.unknown[0]

    def test_another_kind_of_payload_is_unknown(self) -> None:
        found = read(npu_blob(npu_trailer(kind=2)))
        assert found.unknown == ("its payload is of the kind 2; 0 (ELF) is known",)
        assert found.openvino == "2026.4.1"

    def test_a_payload_that_is_encrypted_needs_no_mark(self) -> None:
        data = b"\x01\x02\x03\x04" + npu_blob(npu_trailer(encrypted=1))[4:]
        assert read(data).encrypted is True

    def test_a_descriptor_may_end_with_its_zero(self) -> None:
        found = read(npu_blob(npu_trailer(descriptor=DESCRIPTOR + "\0")))
        assert found.requirements is not None
        assert found.requirements.mi == "11.4.10"

    @pytest.mark.parametrize(
        ("trailer", "expected"),
        [
            (npu_trailer()[:-1], "whether"),
            (npu_trailer() + b"\x01", "zeros"),
            (npu_trailer(encrypted=2), "0 or 1"),
            (npu_trailer(init_sizes=(64,)), "schedules"),
            (npu_trailer(init_sizes=(0,)), "schedules"),
            (npu_trailer(descriptor="elf"), "name=value"),
            (npu_trailer(descriptor="elf=1;elf=2"), "once"),
            (npu_trailer(descriptor="ov=1"), "once"),
            (npu_trailer(descriptor="a=\x01"), "requirements text"),
            (npu_trailer(descriptor="a=" + "x" * MAX_TEXT), "characters"),
            (npu_trailer(inputs=("[...]",) * 10_001), "inputs"),
            (npu_trailer(padding=MAX_TRAILER), str(MAX_TRAILER)),
            (b"\x07\x00", "OVNPU"),
        ],
    )  # fmt: skip
    def test_a_damaged_trailer(self, trailer: bytes, expected: str) -> None:
        with pytest.raises(BlobError) as raised:
            read(npu_blob(trailer), source="a/model.blob")
        assert raised.value.path == "a/model.blob"
        if expected not in {"whether", "OVNPU"}:
            assert expected in str(raised.value)

    @pytest.mark.parametrize("count", [1, 2**32, 2**61, 2**64 - 1])
    def test_counts_that_the_file_has_no_room_for(self, count: int) -> None:
        head, number = npu_trailer()[:10], struct.pack("<Q", count)
        for data in (head + number, head + bytes(8) + bytes(8) + number * 2):
            with pytest.raises(BlobError):
                read(npu_blob(data))

    @pytest.mark.parametrize("size", [0, 2**63, 2**64 - 1, 64 + 116, 64 - MAX_TRAILER - 200 + 2**64])
    def test_a_payload_that_the_file_has_no_room_for(self, size: int) -> None:
        with pytest.raises(BlobError):
            read(npu_blob(npu_trailer())[:-13] + struct.pack("<Q", size) + b"OVNPU")

    def test_every_way_to_cut_it_short(self) -> None:
        data = real_blob()
        for length in range(len(data)):
            with pytest.raises(BlobError):
                read(data[:length], kind="NPU")


class TestCpu:
    def test_its_head(self) -> None:
        found = read(cpu_blob(), kind="CPU")
        assert found.requirements is not None
        assert (found.openvino, found.requirements.isa) == ("2026.4.1", "Intel AVX2")
        assert (found.weightless, found.payload_size) == (None, 64)

    def test_what_openvino_writes(self) -> None:
        import openvino as ov
        from openvino import opset13 as ops

        x = ops.parameter([1, 4])
        compiled = ov.Core().compile_model(ov.Model([ops.relu(x)], [x], "main"), "CPU")
        found = read(compiled.export_model().getvalue(), kind="CPU")
        assert found.requirements == parse_requirements(compiled.get_property("RUNTIME_REQUIREMENTS"))
        assert found.requirements is not None
        assert found.requirements.isa
        assert not found.requirements.other

    def test_another_layout_is_not_guessed_at(self) -> None:
        found = read(cpu_blob(version=2))
        assert (found.kind, found.requirements) == ("CPU", None)
        assert "version 2" in found.unknown[0]

    @pytest.mark.parametrize("data", [b"RR_UPCVO", cpu_blob()[:19], cpu_blob()[:30], cpu_blob("a=" + "x" * MAX_TEXT)])
    def test_a_damaged_head(self, data: bytes) -> None:
        with pytest.raises(BlobError):
            read(data)


class TestOthers:
    @pytest.mark.parametrize("data", [b"", b"x", b"GPU's own\n" * 20])
    def test_a_file_with_no_mark_is_unknown(self, data: bytes) -> None:
        assert (read(data).kind, len(read(data).unknown)) == ("unknown", 1)

    def test_a_kind_that_was_not_expected(self) -> None:
        with pytest.raises(BlobError, match="a blob for the CPU; got one for the NPU"):
            read(real_blob(), kind="CPU")
        with pytest.raises(BlobError, match="cut short"):
            read(b"GPU's own\n" * 20, kind="NPU")

    def test_the_error_has_what_is_wrong(self) -> None:
        with pytest.raises(ArtifactError) as raised:
            read(b"\x7fELF and nothing else", source="model.blob")
        found = pickle.loads(pickle.dumps(raised.value))  # noqa: S301 (our own)
        assert (found.path, found.expected) == ("model.blob", "OVNPU as its last bytes")

    def test_only_regular_files_are_opened(self, tmp_path: Path) -> None:
        with pytest.raises(BlobError, match="a regular file"):
            read_blob(tmp_path)
        if sys.platform != "win32":
            os.mkfifo(tmp_path / "model.blob")
            with pytest.raises(BlobError, match="a regular file"):
                read_blob(tmp_path / "model.blob")

    def test_no_byte_of_the_payload_is_read(self) -> None:
        file = SparseFile(b"\x7fELF".ljust(64, b"\0"), 400_000_000, bytes.fromhex(NPU_TRAILERS["4000"]))
        found = read_blob_file(file, file.size, kind="NPU")
        assert found.payload_size == 400_000_000
        assert sum(end - start for start, end in file.read_parts if end <= 400_000_000) <= 20
        assert sum(end - start for start, end in file.read_parts) < 200

    def test_a_file_of_400_megabytes(self, tmp_path: Path) -> None:
        path = tmp_path / "model.blob"
        data = real_blob()
        with path.open("wb") as file:
            file.write(data[:64])
            file.seek(400_000_000)
            file.write(data[64:-13] + struct.pack("<Q", 400_000_000) + b"OVNPU")
        assert read_blob(path, "NPU").payload_size == 400_000_000


class TestRequirements:
    def test_names_that_are_not_known_are_kept(self) -> None:
        found = parse_requirements("meta=1.0;ov=2026.4.1;desc=[driver=25.1;ip=12.70;eus=128]")
        assert found.other == {"driver": "25.1", "ip": "12.70", "eus": "128"}
        assert found.platform is None

    def test_values_of_another_form_are_kept(self) -> None:
        found = parse_requirements("npu=4000;t=2-4;elf=next;x=[1;2]")
        assert (found.tiles, found.elf, found.platform) == (None, None, "4000")
        assert found.other == {"t": "2-4", "elf": "next", "x": "[1;2]"}

    @given(st.text(max_size=200))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        with suppress(BlobError):
            assert parse_requirements(text).text == text


@pytest.mark.parametrize("name", ["4000", "4000 weightless", "CPU"])
def test_mutations_neither_crash_nor_hang(name: str) -> None:
    """100 000 over the three: only our errors, or a blob, may come out."""
    chance = random.Random(4)  # noqa: S311 (which bytes are changed is no secret)
    original = cpu_blob() if name == "CPU" else npu_blob(bytes.fromhex(NPU_TRAILERS[name]), 64)
    if "weightless" in name:
        original = original.replace(struct.pack("<Q", 425_984), struct.pack("<Q", 32))
    read_all = 0
    for _ in range(MUTATIONS // 3 + 1):
        data = mutate(original, chance)
        with suppress(BlobError):
            assert read(data).size == len(data)
            read_all += 1
    assert 0 < read_all < MUTATIONS // 3


def mutate(original: bytes, chance: random.Random) -> bytes:
    """Change bits and bytes, cut some out, put some in twice."""
    data = bytearray(original)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
        at = chance.randrange(len(data))
        match chance.randrange(8):
            case 0:
                del data[at : at + chance.randrange(1, 9)]
            case 1:
                data[at:at] = data[at : at + chance.randrange(1, 9)]
            case 2:
                data[at : at + 8] = chance.choice((b"\xff" * 8, bytes(8), bytes(7) + b"\x80"))
            case 3:
                data[at] = chance.randrange(256)
            case _:
                data[at] ^= 1 << chance.randrange(8)
    return bytes(data)


class SparseFile(io.RawIOBase):
    """A payload that is not there, with what stands before and behind it; it notes what was read."""

    def __init__(self, head: bytes, payload: int, trailer: bytes) -> None:
        self.size = payload + len(trailer) + 13
        self.read_parts: list[tuple[int, int]] = []
        self._head = head
        self._payload = payload
        self._tail = trailer + struct.pack("<Q", payload) + b"OVNPU"
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        assert whence == os.SEEK_SET
        self._at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        assert size >= 0
        start, end = self._at, min(self._at + size, self.size)
        self.read_parts.append((start, end))
        self._at = end
        inside = self._head[start:end].ljust(max(0, min(end, self._payload) - start), b"\0")
        return inside + self._tail[max(0, start - self._payload) : max(0, end - self._payload)]
