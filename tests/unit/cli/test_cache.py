from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from npu_persist.artifact.artifact import BLOB_FILE
from npu_persist.cache import CompileCache
from npu_persist.cli.main import main
from npu_persist.store import Store
from tests.support.artifacts import BLOB, KEY, age, damage, held, publish
from tests.support.bundles import publish_tiny
from tests.support.processes import run_python

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one `cache` command in this process; gives its exit code, stdout and stderr."""

    def run_command(*arguments: str) -> tuple[int, str, str]:
        code = main(["cache", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command


@pytest.fixture
def cache(store_home: Path) -> CompileCache:
    return CompileCache(store_home)


def as_json(run: Run, *arguments: str) -> Any:
    return json.loads(run(*arguments, "--json")[1])


def test_an_empty_cache_is_nothing_to_list(run: Run, store_home: Path) -> None:
    assert run("list")[:2] == (0, "")
    assert as_json(run, "list") == []
    assert run("verify")[:2] == (0, "")
    assert run("prune")[:2] == (0, "nothing to prune\n")
    assert not store_home.exists()


def test_the_list_says_what_each_entry_was_compiled_from_and_for(run: Run, cache: CompileCache) -> None:
    bundle = publish_tiny(Store())
    known = publish(cache, subject=bundle.digest, device="NPU")
    unknown = publish(cache)
    age(known, 3600)
    hold = held(unknown)
    code, text, note = run("list")
    header, first, second = text.splitlines()
    assert code == 0
    assert header.split() == ["KEY", "BUNDLE", "DEVICE", "SIZE", "LAST", "USED", "IN", "USE"]
    assert first.split()[:3] == [known.key[:12], "tiny:1", "NPU"]  # the least recently used is the first
    assert second.split()[:3] == [unknown.key[:12], unknown.reference, "CPU"]
    assert second.endswith("yes")
    assert not first.endswith("yes")
    assert "of 20 GB" in note
    listed = as_json(run, "list")
    assert [entry["references"] for entry in listed] == [["tiny:1"], []]
    assert [entry["in_use"] for entry in listed] == [False, True]
    assert listed[0]["key"] == known.key
    assert listed[0]["bundle"] == known.reference
    assert listed[0]["size"] == known.size
    assert listed[0]["problem"] is None
    assert listed[0]["properties"] == {"PERFORMANCE_HINT": "LATENCY"}
    hold.release()


def test_damage_and_strangers_are_warned_of(run: Run, cache: CompileCache) -> None:
    entry = publish(cache)
    damage(entry, "artifact.json", b"{")
    (cache.path / "notes.txt").touch()
    code, text, warnings = run("list")
    assert code == 0
    assert text.splitlines()[1].split()[:3] == [entry.key[:12], "?", "?"]
    assert f"warning: {entry.path} is damaged" in warnings
    assert "notes.txt does not belong to the compile cache" in warnings
    assert as_json(run, "list")[0]["problem"]


def test_what_would_steer_the_terminal_is_shown_as_text(run: Run, cache: CompileCache) -> None:
    publish(cache, device="CPU\x1b[2J")
    assert "\x1b" not in run("list")[1]
    assert "\x1b" not in run("prune", "--max-size", "0")[1]


def test_verify_tells_by_its_exit_code_and_repairs_on_demand(run: Run, cache: CompileCache) -> None:
    publish(cache, graph="sound")
    assert run("verify")[0] == 0
    damaged = publish(cache)
    damage(damaged)
    code, text, errors = run("verify")
    assert code == 4
    assert sorted(line.split()[-1] for line in text.splitlines()[1:]) == ["FAILED", "ok"]
    assert BLOB_FILE in errors
    assert "verify --repair" in errors
    assert damaged.path.exists()
    results = {result["key"]: result["ok"] for result in as_json(run, "verify")}
    assert results[damaged.key] is False
    assert len(results) == 2
    code, _, errors = run("verify", "--repair")
    assert code == 4
    assert "quarantined" in errors
    assert not damaged.path.exists()
    assert run("verify")[0] == 0


def test_prune_says_what_it_removed_and_why(run: Run, cache: CompileCache) -> None:
    old, new, npu = publish(cache, graph="old"), publish(cache, graph="new"), publish(cache, device="NPU")
    age(old, 40 * 24 * 3600)
    assert run("prune")[1] == "nothing to prune\n"
    code, text, _ = run("prune", "--older-than", "30d")
    assert code == 0
    assert text.startswith(f"removed {old.key}: {old.reference}, CPU, ")
    assert "not used for 40 days" in text
    removed = as_json(run, "prune", "--device", "NPU")["removed"]
    assert [one["path"] for one in removed] == [str(npu.path)]
    with held(new):
        assert run("prune", "--max-size", "0")[1] == "nothing to prune\n"
    assert as_json(run, "prune", "--max-size", "0.5 kB")["removed"][0]["reason"] == "least recently used"
    assert cache.entries() == ()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("prune", "--max-size", "lots"), "--max-size: expected a size such as 20GB"),
        (("prune", "--older-than", "30"), "--older-than: expected an age such as 30d"),
        ((), "VERB"),
        (("lst",), "lst"),
        (("export", "unet"), "DIR"),
    ],
    ids=str,
)
def test_what_cannot_be_is_a_usage_error(run: Run, arguments: tuple[str, ...], told: str) -> None:
    code, text, error = run(*arguments)
    assert code == 2
    assert text == ""
    assert told in error


def test_a_quota_that_is_none_is_a_usage_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPU_PERSIST_CACHE_QUOTA", "lots")
    code, _, error = run("list")
    assert code == 2
    assert "NPU_PERSIST_CACHE_QUOTA" in error


def test_an_entry_is_exported_by_its_key_or_its_bundle(run: Run, cache: CompileCache, tmp_path: Path) -> None:
    bundle = publish_tiny(Store())
    entry = publish(cache, subject=bundle.digest)
    assert run("export", entry.key[:8], str(tmp_path / "by key"))[0] == 0
    exported = as_json(run, "export", "tiny:1", str(tmp_path / "by bundle"))
    assert exported == {"key": entry.key, "path": str(tmp_path / "by bundle")}
    assert (tmp_path / "by key" / BLOB_FILE).read_bytes() == (tmp_path / "by bundle" / BLOB_FILE).read_bytes() == BLOB


def test_a_bundle_that_several_entries_were_compiled_from_needs_a_key(
    run: Run, cache: CompileCache, tmp_path: Path
) -> None:
    bundle = publish_tiny(Store())
    code, _, error = run("export", "tiny", str(tmp_path / "exported"))
    assert code == 3
    assert "nothing in" in error
    entries = [publish(cache, subject=bundle.digest, device=device) for device in ("CPU", "GPU")]
    code, _, error = run("export", "tiny", str(tmp_path / "exported"))
    assert code == 2
    for entry in entries:
        assert entry.key[:12] in error


@pytest.mark.parametrize("what", ["unet", "0000", "unet:3", "two words"])
def test_what_is_neither_a_key_nor_a_bundle_is_not_found(run: Run, tmp_path: Path, what: str) -> None:
    code, _, error = run("export", what, str(tmp_path / "exported"))
    assert code == 3
    assert "cache list" in error


def test_a_folder_is_not_exported_over(run: Run, cache: CompileCache, tmp_path: Path) -> None:
    publish(cache)
    (tmp_path / "mine").mkdir()
    code, _, error = run("export", KEY[:12], str(tmp_path / "mine"))
    assert code == 2
    assert "mine" in error


def test_an_import_warns_of_what_differs_from_this_machine(run: Run, cache: CompileCache, tmp_path: Path) -> None:
    cache.export(publish(cache, openvino="2025.1"), tmp_path / "exported")
    other = str(tmp_path / "other")
    code, _, warning = run("import", str(tmp_path / "exported"), "--store", other)
    assert code == 0
    assert "this machine will not use it" in warning
    assert "OpenVINO is 2025.1 there" in warning
    assert "FULL_DEVICE_NAME is A processor there" in warning
    assert len(as_json(run, "list", "--store", other)) == 1
    assert len(as_json(run, "import", str(tmp_path / "exported"), "--store", other)["foreign"]) > 1


def test_an_import_that_this_machine_would_have_made_warns_of_nothing(
    run: Run, cache: CompileCache, tmp_path: Path
) -> None:
    from npu_persist.device.core import get_core, get_version
    from npu_persist.device.devices import identify

    entry = publish(cache, openvino=get_version(), identity=identify(get_core(), "CPU"))
    cache.export(entry, tmp_path / "exported")
    cache.prune(max_size=0)
    code, _, warning = run("import", str(tmp_path / "exported"))
    assert code == 0
    assert warning == ""
    assert cache.find(entry.key) is not None


def test_a_damaged_import_is_an_integrity_error(run: Run, cache: CompileCache, tmp_path: Path) -> None:
    cache.export(publish(cache), tmp_path / "exported")
    (tmp_path / "exported" / BLOB_FILE).write_bytes(b"x" * len(BLOB))
    code, _, error = run("import", str(tmp_path / "exported"), "--store", str(tmp_path / "other"))
    assert code == 4
    assert BLOB_FILE in error
    assert run("import", str(tmp_path / "nothing"))[0] == 3


def test_the_verb_prune_clears_leftovers_of_the_cache_too(
    cache: CompileCache, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = publish(cache)
    cache.quarantine(publish(cache, graph="other"), "damaged")
    with cache.claim(KEY, timeout=0):
        pass
    staging = cache.path / "staging" / "0123456789abcdef"
    staging.mkdir()
    old = time.time() - 10
    os.utime(staging, (old, old))
    capsys.readouterr()
    assert main(["prune", "--json"]) == 0
    removed = json.loads(capsys.readouterr().out)["removed"]
    assert len(removed) == 2
    assert str(staging) in removed
    assert {path.name for path in cache.path.iterdir()} == {entry.key, "quarantine", "staging"}
    assert list((cache.path / "quarantine").iterdir()) == []


def test_looking_at_the_cache_imports_neither_openvino_nor_numpy(cache: CompileCache) -> None:
    publish(cache)
    code = """if True:
        import sys
        from npu_persist.cli.main import main

        for verb in ("list", "verify", "prune"):
            assert main(["cache", verb, "--json"]) == 0
        print(*sorted({"openvino", "numpy", "torch"} & sys.modules.keys()), file=sys.stderr)
    """
    assert run_python("-c", code).stderr.splitlines()[-1] == ""


def test_an_entry_for_a_bucket_shows_its_sizes(run: Run, cache: CompileCache) -> None:
    entry = publish(cache, shapes={"ids": (1, 128), "mask": (1, 128)})
    assert f"{entry.reference} ids=1x128,mask=1x128" in run("list")[1]
    assert as_json(run, "list")[0]["shapes"] == {"ids": [1, 128], "mask": [1, 128]}
