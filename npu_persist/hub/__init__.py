"""The hub: push bundles to repositories on the Hugging Face hub, and pull them; only this room uses huggingface_hub."""
