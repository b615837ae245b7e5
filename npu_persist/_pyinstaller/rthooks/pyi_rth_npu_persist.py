"""Runs in a frozen program before its own code: in a worker process, instead of it."""

from npu_persist.compilation.process.frozen import freeze_support

freeze_support()
