"""Compiled blobs without a compiler: the trailers that Intel's NPU compiler wrote, and a writer of others."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

NPU_TRAILERS = {
    "3720": (
        "07000200ea07040001000000000000000000000000000000000001000000000000000100000000000000"
        "05005b2e2e2e5d05005b2e2e2e5d04000800002c00000000000000"
        "636f6d70696c65723d382e343b6e70753d333732303b743d323b656c663d312e322e303b6d693d372e302e3400"
    ),
    "4000": (
        "07000200ea07040001000000000000000000000000000000000001000000000000000100000000000000"
        "05005b2e2e2e5d05005b2e2e2e5d04000800002e00000000000000"
        "636f6d70696c65723d382e343b6e70753d343030303b743d343b656c663d312e322e323b6d693d31312e342e313000"
    ),
    "4000 weightless": (
        "07000200ea0704000100010000000000000000800600000000000000000000000000"
        "01000000000000000100000000000000"
        "05005b2e2e2e5d05005b2e2e2e5d04000800002e00000000000000"
        "636f6d70696c65723d382e343b6e70753d343030303b743d343b656c663d312e322e323b6d693d31312e342e313000"
    ),
    "5010": (
        "07000200ea07040001000000000000000000000000000000000001000000000000000100000000000000"
        "05005b2e2e2e5d05005b2e2e2e5d04000800002e00000000000000"
        "636f6d70696c65723d382e343b6e70753d353031303b743d333b656c663d322e302e303b6d693d31312e31332e3000"
    ),
    "5020": (
        "07000200ea07040001000000000000000000000000000000000001000000000000000100000000000000"
        "05005b2e2e2e5d05005b2e2e2e5d04000800002e00000000000000"
        "636f6d70696c65723d382e343b6e70753d353032303b743d313b656c663d322e322e303b6d693d31312e31332e3000"
    ),
}
"""What stood between payload and footer of blobs that OpenVINO 2026.4.1 exported on Windows, by platform: one addition,
and for the weightless one a ResNet-50 (whose one init schedule is of 425984 bytes)."""

WEIGHTLESS_PAYLOAD = 2_326_528
"""Bytes of the payload that the weightless trailer stood behind."""

DESCRIPTOR = "compiler=8.4;npu=4000;t=4;elf=1.2.2;mi=11.4.10"


def npu_blob(trailer: bytes, payload: int = 64) -> bytes:
    """Return a blob of an ELF file's first bytes, zeros and a trailer."""
    return b"\x7fELF".ljust(payload, b"\0") + trailer + struct.pack("<Q", payload) + b"OVNPU"


def real_blob(name: str = "4000") -> bytes:
    """Return a blob with a real trailer; its payload is cut."""
    return npu_blob(bytes.fromhex(NPU_TRAILERS[name]), WEIGHTLESS_PAYLOAD if "weightless" in name else 64)


def npu_trailer(  # noqa: PLR0913 (a line each of the format)
    *,
    version: tuple[int, int] = (2, 7),
    openvino: tuple[int, int, int] = (2026, 4, 1),
    init_sizes: tuple[int, ...] = (),
    batch: int = 0,
    inputs: tuple[str, ...] = ("[...]",),
    outputs: tuple[str, ...] = ("[...]",),
    compiler: tuple[int, int] = (8, 4),
    encrypted: int = 0,
    descriptor: str = DESCRIPTOR,
    kind: int = 0,
    padding: int = 0,
) -> bytes:
    """Write what is between payload and footer, as far as its version has it."""
    layouts = b"".join(struct.pack("<H", len(text)) + text.encode() for text in (*inputs, *outputs))
    lines: list[Any] = [
        struct.pack("<HHHHH", version[1], version[0], *openvino),
        struct.pack(f"<Q{len(init_sizes)}Q", len(init_sizes), *init_sizes),
        struct.pack("<q", batch),
        struct.pack("<QQ", len(inputs), len(outputs)) + layouts,
        struct.pack("<HH", compiler[1], compiler[0]),
        struct.pack("<B", encrypted),
        struct.pack("<Q", len(descriptor)) + descriptor.encode(),
        struct.pack("<B", kind),
    ]
    return b"".join(lines[: version[1] + 1]) + bytes(padding)


def cpu_blob(text: str = "meta=1.0;ov=2026.4.1;isa=Intel AVX2", *, version: int = 1) -> bytes:
    """Return the head of a CPU blob, and a little more."""
    return b"RR_UPCVO" + struct.pack("<IQ", version, len(text)) + text.encode() + bytes(range(64))


def npuw_blob(  # noqa: PLR0913 (what varies)
    parts: Sequence[bytes] = (),
    *,
    kind: bytes = b"LLMCMO",
    openvino: tuple[int, int, int] = (2026, 4, 1),
    version: bytes = b"0.31",
    encrypted: int = 0,
    weightless: int = 1,
    between: bytes = b"what is between the parts \x7fELF",
) -> bytes:
    """Return NPUW's container of blobs, as far as it is read."""
    head = b"\x13\x37npuw" + kind + struct.pack("<IIIQ", *openvino, len(version)) + version
    flags = struct.pack("<BB", encrypted, weightless) if kind == b"LLMCMO" else b""
    body = b"".join(between + b"\1" + struct.pack("<Q", len(part)) + part for part in parts)
    return head + flags + body + between + struct.pack("<Q", 32) + b"S70YVc0IhnDY1WBuBkvnaWRUEWEcHXBq"
