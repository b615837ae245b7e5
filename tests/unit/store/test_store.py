from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from npu_persist.bundle.reference import StoreReference
from npu_persist.errors import (
    AmbiguousReferenceError,
    BundleNotFoundError,
    FileIntegrityError,
    IntegrityError,
    InvalidNameError,
    ReferenceFormatError,
    UsageError,
)
from npu_persist.files.digest import digest_bytes
from npu_persist.store import Store, default_home
from npu_persist.store.folder import NameFolder
from tests.support.bundles import publish_tiny, tiny_files, tiny_golden
from tests.support.stores import snapshot

if TYPE_CHECKING:
    from collections.abc import Callable


# Where it is


def test_nothing_is_made_before_something_is_published(store: Store) -> None:
    assert (store.names(), store.list(), store.versions("tiny"), store.aliases("tiny")) == ((), [], (), {})
    assert store.prune() == []
    store.verify()
    assert not store.home.exists()
    assert repr(store) == f"Store({str(store.home)!r})"


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"NPU_PERSIST_HOME": "/srv/npup", "XDG_DATA_HOME": "/data"}, "/srv/npup"),
        ("linux", {"NPU_PERSIST_HOME": "", "XDG_DATA_HOME": "/data"}, "/data/npu_persist"),
        ("linux", {}, "/home/ada/.local/share/npu_persist"),
        ("darwin", {}, "/home/ada/Library/Application Support/npu_persist"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/npu_persist"),
        ("win32", {}, "/home/ada/AppData/Local/npu_persist"),
    ],
)
def test_the_default_home_is_the_platforms(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], expected: str
) -> None:
    for name in ("NPU_PERSIST_HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    assert default_home() == Path(expected)
    assert Store().home == Path(expected).absolute()


def test_the_home_does_not_move_with_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERPROFILE" if os.name == "nt" else "HOME", str(tmp_path / "ada"))
    assert Store("store").home == tmp_path / "store"
    assert Store("~/store").home == tmp_path / "ada" / "store"


def test_importing_and_listing_stay_light(store: Store) -> None:
    publish_tiny(store)
    code = (
        "import sys; from npu_persist.store import Store\n"
        "print(*sys.modules)\n"
        f"assert [entry.reference for entry in Store({str(store.home)!r}).list()] == ['tiny:1']\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported, listed = (set(line.split()) for line in done.stdout.splitlines())
    for heavy in ("numpy", "openvino", "torch", "asyncio", "jsonschema", "tempfile", "urllib.request"):
        assert heavy not in listed
    assert "blake3" not in imported


# Finding


def test_what_is_not_there_is_not_found_and_the_error_says_what_is(store: Store) -> None:
    with pytest.raises(BundleNotFoundError, match="no bundle 'tiny' in the store"):
        store.resolve("tiny")
    publish_tiny(store, alias="prod")
    publish_tiny(store, golden=tiny_golden("second"))
    for reference, why in {
        "tyni": "did you mean 'tiny'",
        "whisper": "it has tiny",
        "tiny:3": "no version 3 of 'tiny' in the store .*; it has the versions 1, 2",
        "tiny:dev": r"no alias 'dev' of 'tiny' in the store .*; it has prod \(version 1\)",
        "tiny@00000000": "no version of 'tiny' has a digest that starts with '00000000'",
    }.items():
        for verb in (store.resolve, store.verify, store.remove, lambda ref: store.alias(ref, "x")):
            with pytest.raises(BundleNotFoundError, match=why):
                verb(reference)
    with pytest.raises(BundleNotFoundError, match="did you mean"):
        store.list("tyni")
    with pytest.raises(BundleNotFoundError, match="no bundle at"):
        store.resolve("./nowhere")


def test_an_alias_of_nothing_is_not_found_and_can_be_set_again(store: Store) -> None:
    publish_tiny(store)
    publish_tiny(store, alias="prod")
    # As if a tag and a remove had crossed.
    NameFolder(store.home / "bundles" / "tiny").move_to_removed(2)
    with pytest.raises(BundleNotFoundError, match="alias tiny:prod points to version 2, which is not in the store"):
        store.resolve("tiny:prod")
    store.alias("tiny:1", "prod")
    assert store.resolve("tiny:prod").version == 1


def test_half_copied_files_are_pruned_when_nobody_copies_any_more(store: Store) -> None:
    bundle = publish_tiny(store)
    partial = bundle.path / "model.bin.1234.partial"
    partial.touch()
    assert store.prune() == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("npu_persist.store.folder.PARTIAL_AGE", -1.0)
        assert store.prune() == [partial]
    assert store.prune() == []
    store.verify()


def test_a_digest_prefix_of_several_is_ambiguous(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # Four hex digits: among a few hundred bundles two share them. Simpler: let all digests be alike at the start.
    publish_tiny(store)
    publish_tiny(store, golden=tiny_golden("second"))
    publish_tiny(store)
    alike = {store.resolve(f"tiny:{number}").digest: f"blake3:abcd{number % 2}" + "0" * 59 for number in (2, 3)}
    monkeypatch.setattr("npu_persist.store.lookup.digest_bytes", lambda data: alike[digest_bytes(data)])
    with pytest.raises(
        AmbiguousReferenceError, match=r"tiny@abcd is the start of 2 digests: .*Give more digits"
    ) as caught:
        store.resolve("tiny@abcd")
    assert caught.value.matches == ("tiny:3", "tiny:2")
    assert store.resolve("tiny@abcd0").version == 2
    assert store.resolve("tiny@abcd1").version == 3


@pytest.mark.parametrize("reference", ["..", "tiny:", "CON", "a:b:c", "", "x@1", 3, None])
def test_what_is_no_reference_finds_nothing(store: Store, reference: Any) -> None:
    publish_tiny(store)
    with pytest.raises((ReferenceFormatError, InvalidNameError, BundleNotFoundError)):
        store.resolve(reference)


@pytest.mark.parametrize("name", ["..", "../tiny", "/etc", "a/b", "", "nul"])
def test_names_do_not_lead_out_of_the_store(store: Store, name: str) -> None:
    publish_tiny(store)
    calls: list[Callable[[], object]] = [
        lambda: store.versions(name),
        lambda: store.aliases(name),
        lambda: store.list(name),
        lambda: store.unalias(name, "prod"),
        lambda: store.check_names(name),
        lambda: store.resolve(StoreReference(name)),
    ]
    for call in calls:
        with pytest.raises(InvalidNameError):
            call()


def test_a_hub_reference_is_refused(store: Store) -> None:
    for verb in (store.resolve, store.remove, store.verify):
        with pytest.raises(UsageError, match="npu-persist pull hf://intel/unet"):
            verb("hf://intel/unet")


def test_what_is_removed_while_it_is_looked_up_is_not_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_tiny(store)
    publish_tiny(store, alias="prod")
    monkeypatch.setattr(NameFolder, "versions", lambda _: (1, 2, 3))
    (store.home / "bundles" / "tiny" / "aliases" / "gone").symlink_to("nowhere")
    for verb in (store.resolve, store.verify):
        with pytest.raises(BundleNotFoundError, match="no version 3 of 'tiny'"):
            verb("tiny")
    assert all("aliases/gone" in (entry.problem or "") for entry in store.list())
    store.alias("tiny:1", "gone")
    assert [entry.reference for entry in store.list()] == ["tiny:1", "tiny:2"]


def test_a_moved_folder_is_refused(store: Store) -> None:
    publish_tiny(store)
    (store.home / "bundles" / "tiny").rename(store.home / "bundles" / "unet")
    with pytest.raises(FileIntegrityError, match="holds the bundle 'tiny': it was moved here"):
        store.resolve("unet")


def test_foreign_things_in_the_store_are_no_bundles(store: Store, tmp_path: Path) -> None:
    bundle = publish_tiny(store)
    folder = store.home / "bundles" / "tiny"
    (folder / "2").symlink_to(bundle.path)
    (folder / "03").mkdir()
    (folder / ".DS_Store").touch()
    (folder / "7").touch()
    (store.home / "bundles" / ".DS_Store").touch()
    (store.home / "bundles" / "Thumbs.db").touch()
    (store.home / "bundles" / "link").symlink_to(tmp_path)
    assert store.names() == ("tiny",)
    assert store.versions("tiny") == (1,)
    store.verify()


def test_an_empty_directory_is_no_version(store: Store) -> None:
    publish_tiny(store)
    stray = store.home / "bundles" / "tiny" / "8"
    stray.mkdir()
    assert store.versions("tiny") == (1,)
    assert store.resolve("tiny").version == 1
    assert publish_tiny(store).version == 2
    assert store.prune() == [stray]
    assert not stray.exists()
    assert store.versions("tiny") == (1, 2)


# Damage


@pytest.mark.parametrize("damage", ["truncated", "missing", "link"])
def test_a_damaged_version_is_listed_and_can_be_removed(store: Store, tmp_path: Path, damage: str) -> None:
    publish_tiny(store)
    second = publish_tiny(store, golden=tiny_golden("second"), alias="prod")
    path = second.path / "manifest.json"
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[:100])
    elif damage == "link":
        (tmp_path / "outside").write_bytes(content)
        path.symlink_to(tmp_path / "outside")
    first, broken = store.list()
    assert (first.problem, broken.size, broken.aliases) == (None, 0, ("prod",))
    assert broken.problem is not None
    assert "manifest.json" in broken.problem
    for reference in ("tiny", "tiny:2", "tiny:prod"):
        with pytest.raises(IntegrityError):
            store.resolve(reference)
    with pytest.raises(IntegrityError):
        store.verify()
    assert store.resolve(f"tiny@{first.digest[7:17]}").version == 1
    assert publish_tiny(store).version == 3
    assert store.remove("tiny:2", force=True) == "tiny:2"
    store.verify()


@pytest.mark.parametrize("content", [b"", b"x", b"0", b"-1", b"1\n2\n", b"9" * 100, b"\xff"])
def test_a_damaged_alias_is_refused_and_can_be_set_again(store: Store, content: bytes) -> None:
    publish_tiny(store, alias="prod")
    path = store.home / "bundles" / "tiny" / "aliases" / "prod"
    path.write_bytes(content)
    with pytest.raises(FileIntegrityError, match="npu-persist alias tiny:<version> prod") as caught:
        store.resolve("tiny:prod")
    assert caught.value.path == str(path)
    assert store.prune() == []
    assert store.alias("tiny:1", "prod") == "tiny:1"
    assert store.resolve("tiny:prod").version == 1


def test_verify_reads_every_bundle(store: Store) -> None:
    publish_tiny(store)
    last = publish_tiny(store, "zeta")
    seen: list[int] = []
    store.verify(progress=seen.append)
    assert sum(seen) == 2 * sum(len(data) for data in tiny_files().values())
    path = last.path / "golden.safetensors"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().swapcase())
    store.verify("tiny")
    for reference in ("zeta", None):
        with pytest.raises(FileIntegrityError, match=r"zeta.1.golden\.safetensors: expected blake3:"):
            store.verify(reference)


# Aliases and removal


def test_an_alias_can_be_set_and_removed(store: Store) -> None:
    publish_tiny(store)
    publish_tiny(store)
    assert store.alias("tiny", "prod") == "tiny:2"
    assert store.alias("tiny:1", "prod") == "tiny:1"
    assert store.alias("tiny:prod", "dev") == "tiny:1"
    store.unalias("tiny", "prod")
    assert store.aliases("tiny") == {"dev": 1}
    with pytest.raises(BundleNotFoundError, match="no alias 'prod'"):
        store.unalias("tiny", "prod")
    for path in ("./tiny", store.home):
        with pytest.raises(UsageError, match="is a directory; expected a bundle in the store"):
            store.alias(path, "prod")


def test_a_removed_version_is_gone_and_its_number_is_never_given_again(store: Store) -> None:
    publish_tiny(store)
    publish_tiny(store)
    assert store.remove("tiny:2") == "tiny:2"
    assert store.versions("tiny") == (1,)
    assert publish_tiny(store).version == 3
    for number in (3, 1):
        store.remove(f"tiny:{number}")
    assert (store.names(), store.list()) == ((), [])
    with pytest.raises(BundleNotFoundError, match="no bundle 'tiny'"):
        store.remove("tiny:1")
    assert store.prune() == []
    assert not any(path.is_file() for path in store.home.rglob("*"))
    fourth = publish_tiny(store)
    assert fourth.version == 4
    fourth.verify()


def test_removing_says_which_version(store: Store) -> None:
    bundle = publish_tiny(store)
    with pytest.raises(UsageError, match="tiny names no version: choose one to remove, for example tiny:1"):
        store.remove("tiny")
    with pytest.raises(UsageError, match="is a directory"):
        store.remove(bundle.path)
    assert store.remove(f"tiny@{bundle.digest[7:]}") == "tiny:1"


def test_a_version_with_an_alias_is_removed_by_force_only(store: Store) -> None:
    publish_tiny(store, alias="prod")
    publish_tiny(store, alias="dev")
    before = snapshot(store)
    for reference in ("tiny:1", "tiny:prod"):
        with pytest.raises(UsageError, match="tiny:1 has the alias prod, which would point to nothing"):
            store.remove(reference)
    assert snapshot(store) == before
    assert store.remove("tiny:1", force=True) == "tiny:1"
    assert store.aliases("tiny") == {"dev": 2}
    assert store.prune() == []


def test_files_shared_with_a_removed_version_stay(store: Store) -> None:
    publish_tiny(store)
    second = publish_tiny(store)
    store.remove("tiny:1")
    second.verify()
    assert not (second.path / "weights.safetensors").stat().st_mode & 0o222


def test_a_removal_that_was_put_back_by_hand_works_again(store: Store) -> None:
    publish_tiny(store)
    publish_tiny(store)
    store.remove("tiny:2")
    folder = store.home / "bundles" / "tiny"
    (folder / "removed" / "2" / "file").touch()
    (folder / "1").rename(folder / "2")
    assert store.remove("tiny:2") == "tiny:2"
    assert not any((folder / "removed" / "2").iterdir())


@pytest.mark.parametrize("text", ["", "{", "3x", "-1"])
def test_a_damaged_alias_hides_nothing_and_is_found_by_verify(text: str) -> None:
    store = Store()
    publish_tiny(store)
    store.alias("tiny:1", "prod")
    alias = store.home / "bundles" / "tiny" / "aliases" / "prod"
    alias.chmod(0o644)
    alias.write_text(text)
    (entry,) = store.list()
    assert entry.version == 1
    assert "prod" in (entry.problem or "")
    assert store.resolve("tiny").version == 1
    with pytest.raises(FileIntegrityError, match="prod"):
        store.verify()
