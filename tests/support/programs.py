"""Programs in place of wine and its compiler: an installation and a compilation without either."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from npu_persist.compilation.toolchains import install as installing
from npu_persist.compilation.toolchains.native import installed_version
from npu_persist.compilation.toolchains.wine import GCC
from tests.support.blobs import real_blob
from tests.support.wheels import OPENVINO, RUNTIME_DATA, write_wheel

if TYPE_CHECKING:
    from pathlib import Path

BEHAVIOUR = "FAKE_WINE"
"""Environment variable that says how the host program goes wrong: nothing else in its environment is ours."""

_installed: list[Path] = []
"""The first that was installed; the others are copies of it."""

_WINE = """
import json, os, pathlib, sys, time
if sys.argv[1:] == ["--version"]:
    print("wine-8.0 (of a test)")
    sys.exit()
if not os.path.isdir(os.path.join(os.environ["WINEPREFIX"], "drive_c", "windows")):
    sys.exit("wine: could not load kernel32.dll, status c0000135")
request = {}
for line in sys.stdin:
    if line == "end\\n":
        break
    line = line.rstrip("\\n")
    key, _, value = line.rpartition("=") if line.startswith("shape.") else line.partition("=")
    request[key] = value
def say(**message):
    sys.stdout.write("\\n" + json.dumps(message) + "\\n")
    sys.stdout.flush()
how = os.environ.get("FAKE_WINE", "")
if how == "mute" or (how == "mute until ended" and not os.path.exists(os.environ["WINEPREFIX"] + "/ended")):
    time.sleep(600)
if how == "dead":
    sys.exit(1)
if how == "dead once" and not os.path.exists(os.environ["WINEPREFIX"] + "/dead"):
    open(os.environ["WINEPREFIX"] + "/dead", "x")
    sys.exit(1)
say(stage="start")
print("\\x1b[36m[INFO] 06:57:25.898 [NPU_VCL] Current compiler ID: 2026.5.0-of-a-test", flush=True)
print("[INFO] 06:57:25.898 [a-pass]   Inserted 3 barriers", flush=True)
say(stage="read")
request["graph"] = pathlib.Path(request["model"]).read_text()
request["bin"] = pathlib.Path(request["weights"]).read_bytes().decode()
say(stage="compile")
if how == "refuse":
    text = "Exception from src/a.cpp:1:\\n[NPU_VCL] Compiler returned msg:\\nno \\ud83d"
    say(failure={"stage": "compile", "text": text})
elif how == "start":
    say(failure={"stage": "start", "text": "Unsupported configuration key: FOO"})
elif how == "garbage":
    os.write(1, b'{"failure": {"stage": "compile", "text": "\\xff\\xfe is bad"}}\\n')
elif how == "crash":
    print("on the edge", file=sys.stderr, flush=True)
    os.abort()
elif how == "hang":
    time.sleep(600)
else:
    other = {"3720": "4000", "4000": "3720"} if how == "other platform" else {}
    platform = other.get(request["property.NPU_PLATFORM"], request["property.NPU_PLATFORM"])
    blob = bytes.fromhex(BLOBS[platform])
    if how == "cut":
        blob = blob[:-3]
    if how == "fill the disk":
        blob = bytes(4_000_000)
    try:
        with open(request["output"], "wb") as file:
            file.write(blob)
    except OSError:
        pass  # as OpenVINO does
    if how == "no file":
        os.unlink(request["output"])
    folder = os.environ.get("FAKE_NOTES")
    if folder:
        pathlib.Path(folder, "request.json").write_text(json.dumps({**request, "cwd": os.getcwd()}))
    say(result={"requirements": None, "openvino": VERSION + "-22982-of-a-test", "compiler": str(8 << 16 | 4)})
sys.stdin.read()
"""

_WINESERVER = """
import os, pathlib, sys
if sys.argv[1:] == ["-k"]:
    pathlib.Path(os.environ["WINEPREFIX"], "ended").touch()
"""

_WINEBOOT = """
import os, pathlib
prefix = pathlib.Path(os.environ["WINEPREFIX"])
(prefix / "drive_c" / "windows").mkdir(parents=True)
(prefix / "drive_c" / "windows" / "own.dll").write_text("a library")
(prefix / "system.reg").write_text("registry")
"""

_GCC = """
import pathlib, sys
pathlib.Path(sys.argv[sys.argv.index("-o") + 1]).write_text("host")
assert pathlib.Path(next(each for each in sys.argv if each.endswith("host.c"))).is_file()
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of such programs, the only one in which programs are looked for; wheels come without a network."""
    if not (sys.platform == "linux" and os.uname().machine == "x86_64"):
        pytest.skip("wine is for Linux on x86-64")
    folder = tmp_path / "programs"
    folder.mkdir()
    blobs = {platform: real_blob(platform).hex() for platform in ("3720", "4000")}
    known = f"BLOBS, VERSION = {blobs!r}, {installed_version()!r}\n"
    for name, code in {"wine": known + _WINE, "wineboot": _WINEBOOT, "wineserver": _WINESERVER, GCC: _GCC}.items():
        path = folder / name
        path.write_text(f"#!{sys.executable} -ISs\n{code}")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(installing, "_fetch", _fetch)
    return folder


@pytest.fixture
def installed(programs: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """The folder of toolchains, with one in it."""
    if not _installed:
        _installed.append(installing.install(tmp_path_factory.mktemp("installed")).parent)
    return shutil.copytree(_installed[0], tmp_path / "toolchains", symlinks=True)


def _fetch(version: str, folder: Path) -> dict[str, Path]:
    folder.mkdir()
    wheels = {f"openvino-{version}-1-cp311-cp311-win_amd64.whl": OPENVINO}
    wheels["msvc_runtime-14.44.35112-1-cp311-cp311-win_amd64.whl"] = RUNTIME_DATA
    return {name.partition("-")[0]: write_wheel(folder / name, members) for name, members in wheels.items()}
