"""A compiled blob's description of itself: the device, compiler and driver that it needs.

Reads only the first twenty bytes of a payload, and never more than `MAX_TRAILER` bytes at once, whatever counts and
lengths a file claims. Layouts newer than those below are reported as unknown; damaged or other files raise `BlobError`.

A blob of OpenVINO's NPU plugin has its description at the end, little-endian, as `metadata.cpp` of the plugin has it
(openvinotoolkit/openvino, src/plugins/intel_npu); the plugin's compiler writes the same:

    payload                                 ELF files: the schedule, then those that prepare weights
    u32       metadata version              major << 16 | minor; each minor adds a line below
    3 u16     OpenVINO's version
    2.1       u64 n, n u64                  sizes of the schedules that prepare weights; n = 0: the weights are inside
    2.2       i64                           batch, 0 for none
    2.3       u64 inputs, u64 outputs,      for each u16 length and as many bytes: its layout
    2.4       u32                           the compiler's version, major << 16 | minor; 0 for none
    2.5       u8                            1: the payload is encrypted
    2.6       u64, text                     its requirements: compiler=8.4;npu=4000;t=4;elf=1.2.2;mi=11.4.10
    2.7       u8                            kind of the payload; 0: ELF
    zeros                                   in blobs of some versions
    u64       size of the payload
    "OVNPU"

A model that NPUW compiled in parts, a language model for instance, is a container of such blobs:

    13 37 "npuw"
    6 bytes   "LLMCMO": one that generates; "COMPMO": another
    3 i32     OpenVINO's version
    u64, text version of the serialization: 0.31. OpenVINO refuses a container if this or its own version differs
    "LLMCMO"  u8 1: encrypted; u8 1: it reads the weights file when it is imported
    ...       among much else, each part's blob behind its u64 length
    u64, text "LLMCMO" that reads the weights file: the name of what holds them in memory

Of the parts that begin as ELF files each is read as above; they have to be for the same platform. Where NPUW compiled
for the CPU there are none.

A blob of the CPU plugin begins with "RR_UPCVO", u32 version (1), u64 length and its requirements as text.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import msgspec

from npu_persist.errors import BlobError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from io import RawIOBase
    from pathlib import Path
    from typing import BinaryIO

BlobKind = Literal["NPU", "CPU", "unknown"]

NPU_MAGIC = b"OVNPU"
"""Last bytes of an NPU blob."""

CPU_MAGIC = b"RR_UPCVO"
"""First bytes of a CPU blob."""

NPUW_MAGIC = b"\x13\x37npuw"
"""First bytes of NPUW's container."""

GENERATING = b"LLMCMO"
"""What follows them in the container of a model that generates."""

NPUW_VERSION = "0.31"
"""The serialization that is known here: that of OpenVINO 2026.4."""

MAX_PARTS = 10_000
"""Most blobs in a container."""

ELF_MAGIC = b"\x7fELF"
"""First bytes of an NPU blob's payload, if that is not encrypted."""

METADATA_MAJOR, METADATA_MINOR = 2, 7
"""The newest layout that is known here: that of OpenVINO 2026.4."""

MAX_TRAILER = 256 * 1024
"""Most bytes after the payload. A port takes seven, a schedule eight."""

MAX_TEXT = 4096
"""Most bytes of a requirements text."""

MAX_PORTS = 10_000
"""Most inputs, and most outputs."""

_FOOTER = struct.Struct("<Q5s")
_CPU_HEAD = struct.Struct("<8sIQ")
_CPU_VERSION = 1
_SMALLEST_TRAILER = 4 + _FOOTER.size
_LENGTH = struct.Struct("<Q")
_OTHER = b"COMPMO"
_NPUW_HEAD, _NPUW_TEXT = 64, 16
_NPUW_NAME = struct.Struct("<Q32s")
_CHUNK = 1024 * 1024

_PART = re.compile(r"([A-Za-z0-9_]+)=(\[[^\[\]]*\]|[^;\[\]]*)(?:;|$)")
_VERSION = re.compile(r"[0-9]{1,5}(\.[0-9]{1,5}){0,3}")
_NUMBER = re.compile(r"[0-9]{1,5}")


class Requirements(msgspec.Struct, frozen=True, kw_only=True):
    """A blob's requirements, as in OpenVINO's RUNTIME_REQUIREMENTS; None if absent, or in a form that is not known.

    Attributes:
        text: As it was read.
        meta: Version of the blob's metadata: "2.7".
        openvino: OpenVINO's version: "2026.4.1".
        compiler: Version of the NPU's compiler: "8.4".
        platform: The NPU's platform: "4000".
        tiles: Tiles of the NPU that it uses.
        elf: Version of the ELF format: "1.2.2".
        mi: Version of the mapped inference: "11.4.10".
        isa: The CPU's instruction set: "Intel AVX2".
        other: All others by name, such as the GPU's `driver`.
    """

    text: str
    meta: str | None
    openvino: str | None
    compiler: str | None
    platform: str | None
    tiles: int | None
    elf: str | None
    mi: str | None
    isa: str | None
    other: Mapping[str, str]

    def __str__(self) -> str:
        return self.text


class Blob(msgspec.Struct, frozen=True):
    """A blob's description of itself. None if it is absent, or in a form that is not known.

    Attributes:
        kind: The plugin that can read it: "NPU", "CPU", or "unknown" (the GPU's blobs have no mark).
        size: Bytes of the file.
        payload_size: Bytes that the device gets.
        metadata_version: Version of the NPU's metadata: (2, 7).
        openvino: Version of the OpenVINO that wrote it: "2026.4.1".
        compiler: Version of the NPU's compiler: "8.4".
        requirements: Its requirements.
        weightless: Whether it reads the weights file when it is imported.
        init_sizes: Bytes of each schedule that prepares weights; the other bytes of the payload are the main one's.
        batch: The batch size that the plugin adds or removes.
        encrypted: Whether the payload is encrypted.
        is_elf: Whether the payload begins as an ELF file does.
        npuw: Version of the serialization of NPUW's container: "0.31"; None for other blobs.
        generates: Whether the container is of a model that generates.
        parts: The NPU's blobs in the container.
        unknown: Descriptions of what is newer than this module; empty if all is known.
    """

    kind: BlobKind
    size: int
    payload_size: int | None = None
    metadata_version: tuple[int, int] | None = None
    openvino: str | None = None
    compiler: str | None = None
    requirements: Requirements | None = None
    weightless: bool | None = None
    init_sizes: tuple[int, ...] = ()
    batch: int | None = None
    encrypted: bool | None = None
    is_elf: bool | None = None
    npuw: str | None = None
    generates: bool = False
    parts: tuple[Blob, ...] = ()
    unknown: tuple[str, ...] = ()


def read_blob(path: Path, kind: BlobKind | None = None) -> Blob:
    """Read a blob's description of itself; BlobError if it is damaged, truncated, or of another kind than expected."""
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its other end
        _fail(str(path), "a regular file", "something else")
    with path.open("rb", buffering=0) as file:
        return read_blob_file(file, os.fstat(file.fileno()).st_size, source=str(path), kind=kind)


def read_blob_file(
    file: BinaryIO | RawIOBase, size: int, *, source: str = "the blob", kind: BlobKind | None = None
) -> Blob:
    """Read the description of the blob in an open, seekable file; errors call it `source`."""
    head = _read_at(file, 0, min(size, _CPU_HEAD.size), source)
    tail = _read_at(file, max(0, size - _FOOTER.size), min(size, _FOOTER.size), source)
    if head.startswith(NPUW_MAGIC):
        found = _read_npuw(file, size, source)
    elif tail.endswith(NPU_MAGIC):
        found = _read_npu(file, size, head, tail, source)
    elif head.startswith(CPU_MAGIC):
        found = _read_cpu(file, size, head, source)
    elif head.startswith(ELF_MAGIC) or kind == "NPU":
        _fail(source, f"{NPU_MAGIC.decode()} as its last bytes", f"{size} bytes that end with {tail[-5:]!r}: cut short")
    else:
        found = Blob("unknown", size, unknown=("it is no known kind of blob",))
    if kind not in {None, found.kind}:
        _fail(source, f"a blob for the {kind}", f"one for the {found.kind}")
    return found


def _read_npuw(file: BinaryIO | RawIOBase, size: int, source: str) -> Blob:
    data = _Bytes(_read_at(file, 0, min(size, _NPUW_HEAD), source), source)
    data.skip(len(NPUW_MAGIC), "its first bytes")
    kind = data.skip(len(GENERATING), "its kind")
    if kind not in {GENERATING, _OTHER}:
        return Blob("NPU", size, unknown=(f"its container is of the kind {kind!r}; LLMCMO and COMPMO are known",))
    openvino = ".".join(map(str, data.take("III", "OpenVINO's version")))
    version = data.skip(data.count(1, "characters of its version", _NPUW_TEXT), "its version").decode(
        "ascii", "replace"
    )
    if not _VERSION.fullmatch(version) or not _VERSION.fullmatch(openvino):
        _fail(source, "versions of OpenVINO and of the serialization", f"{openvino!r} and {version!r}")
    generates = kind == GENERATING
    fields: dict[str, Any] = {"openvino": openvino, "npuw": version, "generates": generates}
    if version != NPUW_VERSION:
        unknown = f"its serialization has version {version}; only {NPUW_VERSION} is known"
        return Blob("NPU", size, **fields, unknown=(unknown,))
    if generates:
        encrypted, weightless = data.take("BB", "whether it is encrypted, and without weights")
        if max(encrypted, weightless) > 1:
            _fail(source, "0 or 1 for encrypted and for without weights", f"{encrypted} and {weightless}")
        fields |= {"encrypted": encrypted == 1, "weightless": weightless == 1}
        if encrypted:
            return Blob("NPU", size, **fields)
        if weightless:
            _check_end(file, size, source)
    parts = tuple(_read_parts(file, size, source))
    needs = [part.requirements for part in parts if part.requirements is not None]
    if len(platforms := sorted({str(each.platform) for each in needs})) > 1:
        _fail(source, "parts for one platform of the NPU", f"parts for {', '.join(platforms)}")
    newer = tuple(dict.fromkeys(text for part in parts for text in part.unknown))
    most = max(needs, key=lambda each: each.tiles or 0, default=None)
    compiler = None if most is None else most.compiler
    return Blob("NPU", size, **fields, compiler=compiler, requirements=most, parts=parts, unknown=newer)


def _check_end(file: BinaryIO | RawIOBase, size: int, source: str) -> None:
    """Check that a container without weights ends as one does, and so is whole."""
    end = _read_at(file, max(0, size - _NPUW_NAME.size), min(size, _NPUW_NAME.size), source)
    length, name = _NPUW_NAME.unpack(end) if len(end) == _NPUW_NAME.size else (0, b"")
    if length != len(name) or not name.isalnum():
        _fail(source, f"a name of {_NPUW_NAME.size - 8} letters as its last bytes", f"{end[-8:]!r}: cut short")


def _read_parts(file: BinaryIO | RawIOBase, size: int, source: str) -> Iterator[Blob]:
    at, found, tried = 0, 0, 0
    while (at := _find(file, at, size, ELF_MAGIC, source)) >= 0:
        tried += 1
        (length,) = _LENGTH.unpack(_read_at(file, at - _LENGTH.size, _LENGTH.size, source))
        end = at + length
        if not (_SMALLEST_TRAILER < length <= size - at) or (
            _read_at(file, end - len(NPU_MAGIC), len(NPU_MAGIC), source) != NPU_MAGIC
        ):
            at += 1  # bytes of weights, by chance
        else:
            found += 1
            window: Any = _Window(file, at)
            head = _read_at(window, 0, min(length, _CPU_HEAD.size), source)
            tail = _read_at(window, length - _FOOTER.size, _FOOTER.size, source)
            yield _read_npu(window, length, head, tail, f"{source}, part {found}")
            at = end
        if max(found, tried - found) > MAX_PARTS:
            _fail(source, f"at most {MAX_PARTS} parts", "more")


def _find(file: BinaryIO | RawIOBase, start: int, size: int, what: bytes, source: str) -> int:
    """Return where bytes are next in a file; -1 if they are not."""
    while start < size:
        data = _read_at(file, start, min(_CHUNK, size - start), source)
        if (at := data.find(what)) >= 0:
            return start + at
        if start + len(data) == size:
            break
        start += len(data) - len(what) + 1
    return -1


class _Window:
    """A part of a file, as a file."""

    def __init__(self, file: BinaryIO | RawIOBase, start: int) -> None:
        self._file, self._start = file, start

    def seek(self, offset: int) -> int:
        return self._file.seek(self._start + offset) - self._start

    def read(self, length: int) -> bytes | None:
        return self._file.read(length)


def parse_requirements(text: str, source: str = "requirements") -> Requirements:
    """Parse OpenVINO's RUNTIME_REQUIREMENTS, or the part of it that a compiler wrote; BlobError if it is malformed.

    Unknown names, and values of another form than expected, are kept in `other`.

    >>> found = parse_requirements("meta=2.7;ov=2026.4.1;desc=[compiler=8.4;npu=4000;t=4;elf=1.2.2;mi=11.4.10]")
    >>> found.platform, found.tiles, found.elf
    ('4000', 4, '1.2.2')
    """
    if len(text) > MAX_TEXT or not text.isprintable():
        _fail(source, f"a requirements text of at most {MAX_TEXT} characters", f"{len(text)}: {text[:80]!r}")
    parts = _split(text, source)
    known: dict[str, Any] = {}
    for field, name, form in _NAMES:
        known[field] = parts.pop(name) if form.fullmatch(parts.get(name, "")) else None
    tiles = known.pop("tiles")
    return Requirements(text=text, tiles=None if tiles is None else int(tiles), **known, other=parts)


_NAMES = (
    ("meta", "meta", _VERSION),
    ("openvino", "ov", _VERSION),
    ("compiler", "compiler", _VERSION),
    ("platform", "npu", _NUMBER),
    ("tiles", "t", _NUMBER),
    ("elf", "elf", _VERSION),
    ("mi", "mi", _VERSION),
    ("isa", "isa", re.compile(r".+")),
)
"""Field of `Requirements`, its name in the text, and the form of its value."""


def _split(text: str, source: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    at = 0
    while at < len(text):
        found = _PART.match(text, at)
        name, value = found.groups() if found is not None else ("", "")
        more = _split(value[1:-1], source) if name == "desc" and value.startswith("[") else {name: value}
        if found is None or not parts.keys().isdisjoint(more):
            _fail(source, "requirements as name=value;name=value, each name once", repr(text[:80]))
        parts |= more
        at = found.end()
    return parts


def _read_npu(file: BinaryIO | RawIOBase, size: int, head: bytes, tail: bytes, source: str) -> Blob:
    payload_size, _ = _FOOTER.unpack(tail) if len(tail) == _FOOTER.size else (0, b"")
    trailer = size - payload_size
    if not 0 < payload_size <= size - _SMALLEST_TRAILER:
        _fail(source, f"a payload of 1 to {size - _SMALLEST_TRAILER} bytes", f"one of {payload_size}")
    if trailer > MAX_TRAILER:
        _fail(source, f"at most {MAX_TRAILER} bytes after the payload", f"{trailer}")
    data = _Bytes(_read_at(file, payload_size, trailer - _FOOTER.size, source), source)
    (version,) = data.take("I", "its metadata version")
    major, minor = version >> 16, version & 0xFFFF
    is_elf = head.startswith(ELF_MAGIC)
    if major != METADATA_MAJOR or minor > METADATA_MINOR:
        known = f"{METADATA_MAJOR}.0 to {METADATA_MAJOR}.{METADATA_MINOR}"
        unknown = f"its metadata has version {major}.{minor}; known versions: {known}"
        return Blob("NPU", size, payload_size, (major, minor), is_elf=is_elf, unknown=(unknown,))
    fields = _read_metadata(data, minor, payload_size)
    if not is_elf and not fields.get("encrypted") and not fields.get("unknown"):
        _fail(source, "an ELF file as its payload", f"one that begins with {head[:4]!r}")
    return Blob("NPU", size, payload_size, (major, minor), is_elf=is_elf, **fields)


def _read_version(data: _Bytes, _: int) -> dict[str, Any]:
    return {"openvino": ".".join(map(str, data.take("HHH", "OpenVINO's version")))}


def _read_init_sizes(data: _Bytes, payload_size: int) -> dict[str, Any]:
    sizes = data.take(f"{data.count(8, 'schedules')}Q", "the sizes of its schedules")
    if sizes and (0 in sizes or sum(sizes) >= payload_size):
        data.fail(f"schedules of together less than {payload_size} bytes", f"{sizes[:8]}")
    return {"init_sizes": sizes, "weightless": bool(sizes)}


def _read_batch(data: _Bytes, _: int) -> dict[str, Any]:
    return {"batch": data.take("q", "its batch size")[0] or None}


def _skip_layouts(data: _Bytes, _: int) -> dict[str, Any]:
    ports = data.count(2, "inputs", MAX_PORTS) + data.count(2, "outputs", MAX_PORTS)
    for _ in range(ports):
        data.skip(data.take("H", "a layout")[0], "a layout")
    return {}


def _read_compiler(data: _Bytes, _: int) -> dict[str, Any]:
    (version,) = data.take("I", "the compiler's version")
    return {"compiler": f"{version >> 16}.{version & 0xFFFF}" if version else None}


def _read_encrypted(data: _Bytes, _: int) -> dict[str, Any]:
    (encrypted,) = data.take("B", "whether it is encrypted")
    if encrypted > 1:
        data.fail("0 or 1 for not encrypted or encrypted", str(encrypted))
    return {"encrypted": encrypted == 1}


def _read_descriptor(data: _Bytes, _: int) -> dict[str, Any]:
    text = data.skip(data.count(1, "characters of requirements", MAX_TEXT), "its requirements")
    # The compiler writes a C string, which may end with a zero.
    return {"descriptor": text.removesuffix(b"\0").decode("ascii", "backslashreplace")}


def _read_kind(data: _Bytes, _: int) -> dict[str, Any]:
    (kind,) = data.take("B", "the kind of its payload")
    return {"unknown": (f"its payload is of the kind {kind}; 0 (ELF) is known",)} if kind else {}


_LINES = (
    _read_version,
    _read_init_sizes,
    _read_batch,
    _skip_layouts,
    _read_compiler,
    _read_encrypted,
    _read_descriptor,
    _read_kind,
)
"""Readers of what each minor version of the metadata adds."""


def _read_metadata(data: _Bytes, minor: int, payload_size: int) -> dict[str, Any]:
    """Return the fields of `Blob` in metadata of a known version."""
    fields: dict[str, Any] = {}
    for read_line in _LINES[: minor + 1]:
        fields |= read_line(data, payload_size)
    data.end()
    descriptor = fields.pop("descriptor", "")
    text = f"meta={METADATA_MAJOR}.{minor};ov={fields['openvino']}" + (f";desc=[{descriptor}]" if descriptor else "")
    return {**fields, "requirements": parse_requirements(text, data.source)}


def _read_cpu(file: BinaryIO | RawIOBase, size: int, head: bytes, source: str) -> Blob:
    if len(head) < _CPU_HEAD.size:
        _fail(source, f"a header of {_CPU_HEAD.size} bytes", f"{size}: cut short")
    _, version, length = _CPU_HEAD.unpack(head)
    if version != _CPU_VERSION:
        return Blob("CPU", size, unknown=(f"its header has version {version}; only {_CPU_VERSION} is known",))
    if length > min(MAX_TEXT, size - _CPU_HEAD.size):
        _fail(source, f"requirements of at most {min(MAX_TEXT, size - _CPU_HEAD.size)} bytes", str(length))
    text = _read_at(file, _CPU_HEAD.size, length, source).decode("ascii", "backslashreplace")
    requirements = parse_requirements(text, source)
    payload_size = size - _CPU_HEAD.size - length
    return Blob("CPU", size, payload_size, openvino=requirements.openvino, requirements=requirements)


class _Bytes:
    """The bytes between payload and footer, read from the front."""

    def __init__(self, data: bytes, source: str) -> None:
        self.source = source
        self._data = data
        self._at = 0

    def take(self, form: str, what: str) -> tuple[int, ...]:
        layout = struct.Struct("<" + form)
        return layout.unpack(self.skip(layout.size, what))

    def skip(self, length: int, what: str) -> bytes:
        if length > len(self._data) - self._at:
            self.fail(f"{length} bytes for {what}", f"{len(self._data) - self._at}")
        self._at += length
        return self._data[self._at - length : self._at]

    def count(self, width: int, what: str, most: int = MAX_TRAILER) -> int:
        """Take a number of things of at least `width` bytes each."""
        (number,) = self.take("Q", f"the number of {what}")
        room = min(most, (len(self._data) - self._at) // width)
        if number > room:
            self.fail(f"at most {room} {what}", str(number))
        return number

    def end(self) -> None:
        if rest := self._data[self._at :].strip(b"\0"):
            self.fail("only zeros after its metadata", f"{len(rest)} other bytes")

    def fail(self, expected: str, got: str) -> NoReturn:
        _fail(self.source, expected, got)


def _read_at(file: BinaryIO | RawIOBase, offset: int, length: int, source: str) -> bytes:
    file.seek(offset)
    data = b""
    while len(data) < length and (more := file.read(length - len(data))):
        data += more
    if len(data) != length:
        _fail(source, f"{length} bytes from byte {offset} on", f"{len(data)}: the file was shortened")
    return data


def _fail(source: str, expected: str, got: str) -> NoReturn:
    raise BlobError.mismatch(source, expected, got, "Compile it again, or get another copy")
