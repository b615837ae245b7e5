"""The hub: bundles pushed to and pulled from repositories of the Hugging Face hub.

The promise: huggingface_hub is imported here and nowhere else, and not before a hub is asked for. Tokens, endpoint,
proxies, offline mode and cache are its own settings. What it raises comes out as one of `npu_persist.errors`.
"""
