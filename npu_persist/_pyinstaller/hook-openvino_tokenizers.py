"""OpenVINO's tokenizers in a frozen program: the library with their operations, without what converts tokenizers."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_dynamic_libs

binaries = collect_dynamic_libs("openvino_tokenizers", search_patterns=["*.dll", "*.dylib", "lib*.so*"])
excludedimports = ["torch", "transformers", "tokenizers", "sentencepiece", "tiktoken", "openvino.tools"]
