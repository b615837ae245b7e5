"""What this machine has: devices, what they can do, and what is missing for those that are not there.

The promise: a device string means what OpenVINO means by it, nothing is compiled to find an answer, and a device that
is not there is told apart from a graph that does not compile.

Singular, because the front door's `npu_persist.devices` is a function. What every load needs is here; what describes
the machine for people, in `device.listing` and `device.diagnosis`, is imported by whoever wants it.
"""

from npu_persist.device.identity import can_export, identify
from npu_persist.device.missing import check_device, explain_missing
from npu_persist.device.names import candidates, head, named_devices, settle
from npu_persist.device.properties import HINTS, check_properties, explain_refused, merge_hint

__all__ = [
    "HINTS",
    "can_export",
    "candidates",
    "check_device",
    "check_properties",
    "explain_missing",
    "explain_refused",
    "head",
    "identify",
    "merge_hint",
    "named_devices",
    "settle",
]
