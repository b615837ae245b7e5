"""OpenVINO in a frozen program: its plugins and the reader of its own format, which it opens by name."""

from __future__ import annotations

from pathlib import Path

from PyInstaller.utils.hooks import collect_data_files, collect_dynamic_libs


def _is_needed(library: str) -> bool:
    """Tell whether loading needs a library: frontends of other formats than OpenVINO's own are left out."""
    name = Path(library).name
    return "_frontend" not in name or "_ir_frontend" in name


binaries = [
    (library, folder)
    for library, folder in collect_dynamic_libs("openvino", search_patterns=["*.dll", "*.dylib", "lib*.so*"])
    if _is_needed(library)
]
datas = collect_data_files("openvino", includes=["libs/cache.json"])  # the GPU plugin's table of tuned kernels
# The model converter, and what it converts from.
excludedimports = ["openvino.tools", "openvino.torch", "torch", "tensorflow", "paddle", "onnx", "jax"]
