from __future__ import annotations

import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from npu_persist import core
from npu_persist.errors import IncompatibleError, OpenVINOVersionError
from tests.processes import run_python

FULL = "2026.4.1-22982-e213a147257-releases/2026/4"


def test_threads_that_ask_at_once_make_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class SlowCore:
        def __init__(self) -> None:
            made.append(self)
            time.sleep(0.1)

    monkeypatch.setattr(core, "_cores", [])
    monkeypatch.setattr("openvino.Core", SlowCore)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: core.get_core(), range(4)))
    assert len(made) == 1
    assert found == made * 4


def test_openvino_is_imported_on_first_use() -> None:
    code = (
        "import sys; import npu_persist.core as core, npu_persist.runtime; print('openvino' in sys.modules);"
        "core.get_version(); print('openvino' in sys.modules)"
    )
    done = run_python("-c", code)
    assert (done.stdout.split(), done.stderr) == (["False", "True"], "")


def test_the_installed_version_reads_as_one() -> None:
    assert core._release(core.get_version()) is not None


@pytest.mark.parametrize(
    ("installed", "written_by"),
    [
        (FULL, FULL),
        (FULL, "2026.4.1"),
        ("2026.4.0", "2026.4.9"),
        ("2026.5.0", "2026.4.1"),
        ("2026.10.0", "2026.4.1"),
        ("2027.0.0", "2026.4.1"),
        ("custom-master-1234", "2026.4.1"),
        ("2026.4.1", "custom-master-1234"),
        ("2026.4.1", "9" * 5000),
        ("2026.4.1", "\u0662\u0660\u0662\u0669.\u0661"),
    ],
)
def test_a_version_as_new_or_unknown_will_do(installed: str, written_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "get_version", lambda: installed)
    core.require_version(written_by, "unet:3")


@pytest.mark.parametrize("installed", ["2026.3.2", "2025.4.1", "2026.3.0-1-abc-releases/2026/3"])
def test_an_older_version_is_refused(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "get_version", lambda: installed)
    with pytest.raises(OpenVINOVersionError, match=r"unet:3 .*2026\.4\.1.*pip install 'openvino>=2026\.4'") as caught:
        core.require_version(FULL, "unet:3")
    assert isinstance(caught.value, IncompatibleError)
    restored = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert (restored.found, restored.required) == (installed, FULL)
