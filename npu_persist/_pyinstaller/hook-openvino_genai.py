"""OpenVINO GenAI in a frozen program: its library imports the tokenizers' package, which no Python code of it does."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_dynamic_libs

binaries = collect_dynamic_libs("openvino_genai", search_patterns=["*.dll", "*.dylib", "lib*.so*"])
hiddenimports = ["openvino_tokenizers"]
