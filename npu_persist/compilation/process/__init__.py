"""Work in processes of their own: with a time limit, a memory limit, live progress and an end.

The promise: when `supervise` or `run_python` returns or raises, the process is gone, whatever it was doing; Ctrl-C ends
it too, and so does the death of the caller.
"""

from npu_persist.compilation.process.python import run_python
from npu_persist.compilation.process.supervision import BEAT, Answer, CompileProgress, SilentError, supervise

__all__ = ["BEAT", "Answer", "CompileProgress", "SilentError", "run_python", "supervise"]
