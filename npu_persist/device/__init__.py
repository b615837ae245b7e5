"""This machine's devices: what they are called, what they can do, and what is missing for those that are not there."""
