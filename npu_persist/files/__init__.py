"""Files on disk: portable names, atomic writes, staging, digests, locks."""
