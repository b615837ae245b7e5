"""A machine with two devices: the CPU's plugin once more, under another name.

AUTO, HETERO and fallbacks need a second device. OpenVINO looks for the plugin's own name in the device's, so it has to
be one with CPU in it; and it takes no name that begins with another device's, so such a core has no real NPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from npu_persist.device import core

if TYPE_CHECKING:
    import openvino as ov

SECOND = "NPU_CPU"
"""The second device's name. AUTO prefers it to the CPU, as it prefers a GPU."""

_PLUGINS = {
    "CPU": "intel_cpu",
    SECOND: "intel_cpu",
    "AUTO": "auto",
    "MULTI": "auto",
    "HETERO": "hetero",
    "BATCH": "auto_batch",
}

_SITECUSTOMIZE = """
from npu_persist.device import core
core.get_core()
core._cores[:] = [core.import_openvino().Core({plugins!r})]
"""


def write_plugins(folder: Path) -> Path:
    """Write what `openvino.Core` takes to have both devices, and return its path."""
    import openvino as ov

    libraries = Path(ov.__file__).parent / "libs"
    root = ET.Element("ie")
    plugins = ET.SubElement(root, "plugins")
    for name, library in _PLUGINS.items():
        location = next(libraries.glob(f"*openvino_{library}_plugin.*"))
        ET.SubElement(plugins, "plugin", name=name, location=str(location))
    path = folder / "plugins.xml"
    ET.ElementTree(root).write(path)
    return path


def on_path(folder: Path) -> Path:
    """Fill a folder that gives every process with it on PYTHONPATH both devices, and its children too.

    Use it as `run_python(..., path=on_path(tmp_path / "second"))`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plugins = write_plugins(folder)
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(plugins=str(plugins)))
    return folder


@pytest.fixture
def second_device(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> ov.Core:
    """The package's core of this test, with a second device."""
    import openvino as ov

    core.get_core()  # what it does once in a process is done
    made = ov.Core(str(write_plugins(tmp_path_factory.mktemp("second"))))
    monkeypatch.setattr(core, "_cores", [made])
    return made
