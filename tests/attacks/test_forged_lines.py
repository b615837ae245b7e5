"""Text of a bundle, a hub or a file's name pretends to be a line of ours, or steers the terminal.

A manifest whose metadata had a line break showed "ok, signed by acme" in a line of its own, in the colours that the
command line uses itself; characters that change the direction of text, and invisible ones, reached the terminal. An
output named `../../x` was a member of that name in the file that `run --output` writes.
"""

from __future__ import annotations

import io
import json
import logging
import unicodedata
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec.structs import replace

import npu_persist
from npu_persist.bundle.graph_records import Port
from npu_persist.bundle.reference import HubReference
from npu_persist.cli.arguments import read_arrays, write_arrays
from npu_persist.cli.main import main
from npu_persist.errors import CompilationError
from npu_persist.hub.card import make_section
from npu_persist.progress import Progress, ProgressPrinter
from npu_persist.runtime.report import Attempt, History
from npu_persist.store import Store
from tests.support.attached import attach_npu
from tests.support.bundles import tiny_files, tiny_manifest
from tests.support.graphs import make_model, parameter, publish_affine, write_graph

if TYPE_CHECKING:
    from pathlib import Path

    from npu_persist.bundle.bundle import Bundle

FORGED = "ok, signed by acme (trusted)"
HOSTILE = (
    f"x\n{FORGED}\n\x1b[1m{FORGED}\x1b[0m\r{FORGED}\u2028\x85\x1b[2J\x9b1m\u202e\u2066\u200b\ufeff\u00ad\U000e0041"
)
"""Each kind of character that a terminal acts on or does not show."""

UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def check(text: str) -> None:
    """Check what reached a terminal."""
    check_message(text)
    assert not [line for line in text.split("\n") if line.strip().startswith(FORGED)], text


def check_message(text: str) -> None:
    """Check notes and errors: a message of several lines has them indented, below its first."""
    assert not {character for character in text if unicodedata.category(character) in UNSEEN} - {"\n"}, repr(text)
    assert not [line for line in text.split("\n") if line.startswith(FORGED)], text


def publish_hostile(store: Store) -> Bundle:
    """Publish a tiny bundle with that text wherever a manifest and a description take any."""
    files = tiny_files()
    manifest = replace(
        tiny_manifest("tiny", files),
        warnings=(HOSTILE,),
        metadata={HOSTILE: HOSTILE, "b": {HOSTILE: [HOSTILE]}},
        producer=replace(tiny_manifest().producer, torch=HOSTILE),
    )
    with store.stage() as staging:
        for path, data in files.items():
            (staging / path).write_bytes(data)
        (staging / "manifest.json").write_bytes(manifest.to_json())
        bundle = store.publish(staging)
    attach_npu(
        bundle, target="NPU:4000", graph=manifest.graphs[0].name, compiler=HOSTILE, properties={HOSTILE: HOSTILE}
    )
    return bundle


@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("inspect", "tiny"),
        ("verify",),
        ("verify", "--signed"),
        ("path", "tiny"),
        ("compatibility", "tiny", "--target", "NPU:4000"),
        ("run", "tiny", "--device", "CPU"),
        ("inspect", HOSTILE),
        ("list", HOSTILE),
        ("alias", "tiny:1", HOSTILE),
        ("run", "tiny", "--inputs", HOSTILE),
        ("keys", "add", HOSTILE, HOSTILE),
        ("sign", "tiny", "--key", HOSTILE),
        ("pull", HOSTILE),
        ("cache", "list"),
        ("cache", "export", HOSTILE, HOSTILE),
        (HOSTILE,),
    ],
)
def test_no_verb_shows_it_as_it_is(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    publish_hostile(Store())
    main(arguments)
    shown = capsys.readouterr()
    check(shown.out)
    check_message(shown.err)


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    publish_hostile(Store())
    assert main(["inspect", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["warnings"] == [HOSTILE]


def test_a_damaged_manifest_tells_nothing_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    bundle = publish_hostile(Store())
    path = bundle.path / "manifest.json"
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b'"warnings"', b'"warn\\nok, signed by acme (trusted)"'))
    for arguments in (["list"], ["inspect", "tiny"], ["verify"]):
        main(arguments)
    shown = capsys.readouterr()
    assert "warn" in shown.err
    check(shown.out + shown.err)


def test_errors_logs_and_warnings_of_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: Any, **__: Any) -> None:
        warnings.warn(HOSTILE, RuntimeWarning, stacklevel=1)
        monkeypatch.setattr(logging.getLogger("npu_persist"), "propagate", False)  # as without pytest's handlers
        logging.getLogger("npu_persist.hub.client").warning("%s", HOSTILE)
        raise CompilationError(HOSTILE)

    monkeypatch.setattr(npu_persist, "load", load)
    publish_affine(Store())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["run", "affine", "--device", "CPU"]) == 1
    shown = capsys.readouterr().err
    assert shown.count("signed by acme") == 3 * HOSTILE.count(FORGED)
    check_message(shown)


def test_a_reports_text_has_a_line_for_each_attempt() -> None:
    attempts = (Attempt("attached", HOSTILE, False, HOSTILE, 0.1),)  # noqa: FBT003
    text = str(History(attempts, (HOSTILE,)))
    assert len(text.split("\n")) == 2
    check(text)


def test_progress_is_one_line() -> None:
    stream = io.StringIO()
    ProgressPrinter(stream)(Progress("pull", 1, 1, "files", 0.1, HOSTILE))
    check(stream.getvalue())
    assert stream.getvalue().count("\n") == 1


def test_a_model_card_has_no_line_of_it() -> None:
    section = make_section(publish_hostile(Store()), HubReference("org/tiny", "v1"), {})
    check(section)


@pytest.mark.parametrize("name", ["../../x", "/x", "C:\\x", "..\\x", "a/b", HOSTILE, "%2Fx", "y.0 é"])
def test_no_output_is_a_path(name: str, tmp_path: Path) -> None:
    path = tmp_path / "outputs.npz"
    write_arrays(str(path), {name: np.arange(3), "%2F": np.zeros(1), "/": np.ones(1)})
    (tmp_path / "unpacked").mkdir()
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        assert len(set(members)) == 3
        assert not [member for member in members if set(member) & set("/\\:\n") or not member.isprintable()]
    assert np.array_equal(next(iter(read_arrays(str(path)).values())), np.arange(3))
    if name == "y.0 é":
        assert members[0] == "y.0 é.npy"


def test_run_writes_such_a_name_safely(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = Port("x", "float32", (3,))
    node = parameter(port)
    folder = tmp_path / "bundle"
    folder.mkdir()
    name = "../../x"
    write_graph(folder, make_model([node], [(name, node)]), [port], [Port(name, "float32", (3,))])
    target = tmp_path / "out.npz"
    assert main(["run", str(folder), "--device", "CPU", "--random", "--output", str(target)]) == 0, capsys.readouterr()
    with zipfile.ZipFile(target) as archive:
        assert archive.namelist() == ["..%2F..%2Fx.npy"]
