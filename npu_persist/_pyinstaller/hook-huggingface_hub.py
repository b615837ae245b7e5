"""The hub's client in a frozen program: without what it serves in notebooks and training."""

from __future__ import annotations

excludedimports = ["torch", "tensorflow", "keras", "safetensors", "fastai", "gradio", "mcp", "IPython", "pandas", "PIL"]
