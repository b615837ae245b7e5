"""The training side: everything that needs torch. Nothing outside of this package imports it."""

from npu_persist.conversion.examples import record
from npu_persist.conversion.persist import persist
from npu_persist.progress import Progress

__all__ = ["Progress", "persist", "record"]
