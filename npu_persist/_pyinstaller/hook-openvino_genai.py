"""OpenVINO GenAI in a frozen program: the library with the tokenizers' operations, which it opens by name."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_dynamic_libs

binaries = [
    library
    for package in ("openvino_genai", "openvino_tokenizers")
    for library in collect_dynamic_libs(package, search_patterns=["*.dll", "*.dylib", "lib*.so*"])
]
