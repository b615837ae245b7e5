"""One bundle on disk: its manifest, weights, call signature, and how it is referred to."""
