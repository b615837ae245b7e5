"""The training side: everything that needs torch. Nothing outside of this package imports it."""

from npu_persist.export.examples import record
from npu_persist.export.persist import persist
from npu_persist.export.progress import Progress

__all__ = ["Progress", "persist", "record"]
