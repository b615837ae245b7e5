"""npu_persist in a frozen program: all but its training side. Its modules are imported on first use, by name."""

from __future__ import annotations

from PyInstaller import __version__
from PyInstaller.utils.hooks import collect_data_files, collect_submodules

if tuple(map(int, __version__.split(".")[:2])) < (6, 9):
    # Since 6.9 a worker of a one-file program uses the files that the program has unpacked, instead of its own.
    raise RuntimeError(f"npu_persist needs PyInstaller 6.9 or later to be frozen; this is {__version__}")

_LEFT_OUT = ("npu_persist.conversion", "npu_persist._pyinstaller")


def _is_needed(module: str) -> bool:
    return not module.startswith(_LEFT_OUT)


hiddenimports = ["openvino", *collect_submodules("npu_persist", filter=_is_needed)]
datas = collect_data_files("npu_persist", includes=["**/*.json", "**/*.c"])
# Where they are installed, what only training and plots need would make the program larger by gigabytes.
excludedimports = ["npu_persist.conversion", "torch", "safetensors", "transformers", "diffusers", "nncf", "matplotlib"]
