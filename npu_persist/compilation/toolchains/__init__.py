"""Ways to Intel's NPU compiler, for machines with and without an NPU.

The promise: each compiles in a process of its own, with limits, and gives a whole blob for the right platform or an
error; which ones can be used here can be asked in milliseconds.
"""

from npu_persist.compilation.toolchains.base import CompileJob, Limits, Outcome, State, Toolchain
from npu_persist.compilation.toolchains.choice import choose_toolchain, find_toolchains

__all__ = ["CompileJob", "Limits", "Outcome", "State", "Toolchain", "choose_toolchain", "find_toolchains"]
