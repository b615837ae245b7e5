"""The smallest graph there is, compiled: that a toolchain works is shown by this and nothing less.

The promise: what passes made a blob for the NPU's platform that was asked for.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from npu_persist.artifact.blob import read_blob
from npu_persist.compilation.toolchains.base import CompileJob, Outcome
from npu_persist.errors import ToolchainError

if TYPE_CHECKING:
    from typing import Protocol

    from typing_extensions import Unpack

    from npu_persist.compilation.toolchains.base import Limits

    class Compile(Protocol):
        """What compiles a job: `Toolchain.compile`."""

        def __call__(self, job: CompileJob, **limits: Unpack[Limits]) -> Outcome:
            """Compile."""


PROBED = ("3720", "4000")
"""Platforms that a check compiles for."""

TIMEOUT = 300.0
"""Seconds for one operation: it takes half a second where nothing is wrong."""

_PORT = "<dim>1</dim><dim>16</dim></port>"
_GRAPH = f"""\
<?xml version="1.0"?>
<net name="probe" version="11">
<layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="1,16" element_type="f32"/>
<output><port id="0" precision="FP32" names="x">{_PORT}</output></layer>
<layer id="1" name="relu" type="ReLU" version="opset1"><input><port id="0" precision="FP32">{_PORT}</input>
<output><port id="1" precision="FP32" names="y">{_PORT}</output></layer>
<layer id="2" name="y/sink" type="Result" version="opset1"><input><port id="0" precision="FP32">{_PORT}</input></layer>
</layers>
<edges>
<edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
<edge from-layer="1" from-port="1" to-layer="2" to-port="0"/>
</edges>
</net>
"""


def probe(compile_job: Compile, platform: str) -> Outcome:
    """Compile one operation for a platform.

    Raises:
        ToolchainError: What came of it is no program of the NPU.
        CompilationError: It does not compile.
    """
    with tempfile.TemporaryDirectory(prefix="npu_persist-") as name:
        folder = Path(name)
        graph, weights, output = folder / "probe.xml", folder / "probe.bin", folder / "probe.blob"
        graph.write_text(_GRAPH, encoding="utf-8")
        weights.touch()
        outcome = compile_job(CompileJob(graph, weights, output, platform), timeout=TIMEOUT)
        blob = read_blob(output, "NPU")
        if not blob.is_elf or blob.requirements is None or blob.requirements.platform != platform:
            raise ToolchainError(
                f"the probe for platform {platform}: expected an ELF file of the NPU for it, got {blob}"
            )
    return outcome
