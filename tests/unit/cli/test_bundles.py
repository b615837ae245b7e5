from __future__ import annotations

import json
from typing import TYPE_CHECKING

from npu_persist.store import Store
from tests.support.bundles import publish_tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


def damage(path: Path) -> None:
    """Change one byte of a read-only file, in a copy that takes its place."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)


def test_list_shows_every_version(run: Run) -> None:
    store = Store()
    publish_tiny(store, alias="prod")
    publish_tiny(store, "other", weights=b"\0" * 4096 + b"x" * 4)
    publish_tiny(store)
    code, out, err = run("list")
    assert (code, err) == (0, "")
    header, *rows = out.splitlines()
    assert header.split() == ["REFERENCE", "ALIASES", "SIZE", "CREATED", "DIGEST"]
    assert [row.split()[0] for row in rows] == ["other:1", "tiny:1", "tiny:2"]
    assert rows[1].split()[1] == "prod"
    # Aligned: the digests start in one column.
    assert len({row.index("blake3:") for row in rows}) == 1


def test_list_of_a_name_and_as_json(run: Run) -> None:
    store = Store()
    publish_tiny(store, "other")
    bundle = publish_tiny(store, alias="prod")
    code, out, _ = run("list", "tiny", "--json")
    assert code == 0
    (entry,) = json.loads(out)
    assert entry == {
        "reference": "tiny:1",
        "name": "tiny",
        "version": 1,
        "aliases": ["prod"],
        "digest": bundle.digest,
        "size": bundle.size,
        "created": bundle.created.isoformat(timespec="seconds"),
        "path": str(bundle.path),
        "problem": None,
    }
    assert run("list", "absent")[0] == 3


def test_an_empty_store_lists_nothing_on_stdout(run: Run, store_home: Path) -> None:
    code, out, err = run("list")
    assert (code, out) == (0, "")
    assert str(store_home) in err
    assert json.loads(run("list", "--json")[1]) == []


def test_a_damaged_version_is_listed_with_a_warning(run: Run) -> None:
    store = Store()
    publish_tiny(store)
    damage(publish_tiny(store).path / "manifest.json")
    code, out, err = run("list")
    assert code == 0
    assert [row.split()[0] for row in out.splitlines()[1:]] == ["tiny:1", "tiny:2"]
    assert err.startswith("warning: tiny:2 is damaged: ")


def test_inspect_shows_what_is_in_the_bundle(run: Run) -> None:
    bundle = publish_tiny(Store(), alias="prod")
    code, out, err = run("inspect", "tiny:prod")
    assert (code, err) == (0, "")
    for shown in (
        "tiny:1",
        bundle.digest,
        str(bundle.path),
        "prod",
        "batch:1..8",
        "BaseModelOutput(",
        "fp16",
        "torch.jit.trace",
        "0.99999",
        "a branch was frozen",
        "author=Ada",
        *(entry.digest for entry in bundle.manifest.files.values()),
    ):
        assert shown in out
    assert all(line == line.rstrip() for line in out.splitlines())


def test_inspect_as_json_is_the_manifest_and_where_it_is(run: Run) -> None:
    bundle = publish_tiny(Store())
    data = json.loads(run("inspect", "tiny", "--json")[1])
    assert data.pop("manifest") == json.loads((bundle.path / "manifest.json").read_bytes())
    assert data["digest"] == bundle.digest
    assert data["version"] == 1
    assert data["path"] == str(bundle.path)


def test_inspect_of_a_directory_has_no_version(run: Run) -> None:
    bundle = publish_tiny(Store())
    assert json.loads(run("inspect", str(bundle.path), "--json")[1])["version"] is None


def test_path_is_one_line(run: Run) -> None:
    bundle = publish_tiny(Store())
    assert run("path", "tiny") == (0, f"{bundle.path}\n", "")
    assert json.loads(run("path", "tiny", "--json")[1]) == {"path": str(bundle.path)}


def test_another_store_by_option(run: Run, tmp_path: Path) -> None:
    publish_tiny(Store(tmp_path / "other"))
    assert run("path", "tiny")[0] == 3
    assert run("path", "tiny", "--store", str(tmp_path / "other"))[0] == 0


def test_alias_moves_an_alias_and_removes_it(run: Run) -> None:
    store = Store()
    publish_tiny(store)
    publish_tiny(store)
    assert run("alias", "tiny:1", "prod") == (0, "tiny:1 is prod\n", "")
    assert json.loads(run("alias", "tiny", "prod", "--json")[1]) == {"reference": "tiny:2", "alias": "prod"}
    assert store.aliases("tiny") == {"prod": 2}
    assert run("unalias", "tiny:prod")[0] == 0
    assert store.aliases("tiny") == {}
    assert run("unalias", "tiny:prod")[0] == 3


def test_verify_finds_the_damaged_one_and_goes_on(run: Run) -> None:
    store = Store()
    damage(publish_tiny(store, "a").path / "weights.safetensors")
    publish_tiny(store, "b", weights=b"\0" * 4096 + b"other")
    code, out, err = run("verify")
    assert code == 4
    assert [row.split()[0] + row.split()[-1] for row in out.splitlines()[1:]] == ["a:1FAILED", "b:1ok"]
    assert "weights.safetensors: expected blake3:" in err
    results = json.loads(run("verify", "--json")[1])
    assert [result["ok"] for result in results] == [False, True]
    assert run("verify", "a")[0] == 4
    assert run("verify", "b")[0] == 0
    assert run("verify", "absent")[0] == 3


def test_verify_of_all_sees_a_manifest_of_another_format(run: Run) -> None:
    manifest = publish_tiny(Store()).path / "manifest.json"
    data = manifest.read_bytes().replace(b'"format_version": "1.0"', b'"format_version": "2.0"')
    manifest.unlink()
    manifest.write_bytes(data)
    code, _, err = run("verify")
    assert code == 5
    assert "pip install --upgrade npu_persist" in err
    assert run("inspect", "tiny")[0] == 5


def test_remove_takes_one_version(run: Run) -> None:
    store = Store()
    publish_tiny(store)
    publish_tiny(store, alias="prod")
    assert run("remove", "tiny:1") == (0, "removed tiny:1\n", "")
    assert run("remove", "tiny:2")[0] == 2
    assert json.loads(run("remove", "tiny:2", "--force", "--json")[1]) == {"removed": "tiny:2"}
    assert store.names() == ()


def test_prune_says_what_it_removed(run: Run, store_home: Path) -> None:
    publish_tiny(Store())
    assert run("prune") == (0, "nothing to prune\n", "")
    leftover = store_home / "staging" / "0123456789abcdef"
    leftover.mkdir()
    code, out, _ = run("prune", "--json")
    assert code == 0
    assert json.loads(out) == {"removed": [str(leftover)]}
    assert not leftover.exists()


def test_export_writes_a_layout(run: Run, tmp_path: Path) -> None:
    publish_tiny(Store())
    target = tmp_path / "served"
    code, out, _ = run("export", "tiny", "--layout", "ovms", str(target), "--json")
    assert code == 0
    assert json.loads(out) == {
        "layout": "ovms",
        "files": [str(target / "1" / name) for name in ("model.xml", "model.bin")],
    }
    assert run("export", "tiny", str(target))[0] == 2
    assert run("export", "tiny", str(tmp_path / "plain"))[1].splitlines()[0] == str(tmp_path / "plain" / "model.xml")
