"""Ways to Intel's NPU compiler, for machines with and without an NPU."""
