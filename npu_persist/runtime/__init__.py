"""The deploy side: a bundle, verified, compiled by OpenVINO and called like the module it came from. No torch."""

from npu_persist.runtime.load import load
from npu_persist.runtime.model import Model

__all__ = ["Model", "load"]
