from __future__ import annotations

import json
import pkgutil
from typing import TYPE_CHECKING

import pytest

import npu_persist
from npu_persist import errors
from npu_persist.store import Store
from tests.support.bundles import publish_tiny
from tests.support.processes import poison, run_python

if TYPE_CHECKING:
    from pathlib import Path

TRAINING_SIDE = {"Example", "persist", "record", "refresh"}

LIST_MODULES = "import sys, json; print(json.dumps(sorted(sys.modules)))"


def test_names_are_those_that_dir_and_all_show() -> None:
    assert set(npu_persist.__all__) <= set(dir(npu_persist))


@pytest.mark.parametrize("name", sorted(set(npu_persist.__all__) - TRAINING_SIDE))
def test_each_name_resolves(name: str) -> None:
    assert getattr(npu_persist, name) is not None


def test_errors_live_in_one_module() -> None:
    assert npu_persist.errors is errors
    assert npu_persist.NpuPersistError is errors.NpuPersistError
    assert not [name for name in npu_persist.__all__ if name.endswith("Warning")]
    assert [name for name in npu_persist.__all__ if name.endswith("Error")] == ["NpuPersistError"]


def test_no_name_is_a_modules_too() -> None:
    # A submodule takes the place of the package's attribute of its name as soon as it is imported.
    submodules = {module.name for module in pkgutil.iter_modules(npu_persist.__path__)}
    assert set(npu_persist.__all__) & submodules == {"errors"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'presist'"):
        npu_persist.presist  # type: ignore[attr-defined]  # noqa: B018


def test_verbs_take_a_store_a_path_or_the_default(tmp_path: Path) -> None:
    store = Store(tmp_path / "other")
    publish_tiny(store)
    assert npu_persist.open("tiny", store=store).digest == npu_persist.open("tiny", store=tmp_path / "other").digest
    with pytest.raises(npu_persist.errors.BundleNotFoundError):
        npu_persist.open("tiny")


def test_verbs_do_what_they_say() -> None:
    for _ in range(2):
        publish_tiny(Store())
    assert npu_persist.alias("tiny:1", "prod") == "tiny:1"
    assert [(entry.reference, entry.aliases) for entry in npu_persist.list()] == [("tiny:1", ("prod",)), ("tiny:2", ())]
    npu_persist.verify()
    assert npu_persist.remove("tiny:2") == "tiny:2"
    assert npu_persist.open("tiny").version == 1
    with pytest.raises(npu_persist.errors.UsageError, match="alias prod"):
        npu_persist.remove("tiny:1")
    assert npu_persist.remove("tiny:1", force=True) == "tiny:1"
    assert list(npu_persist.list()) == []


def test_importing_the_package_imports_nothing_else() -> None:
    before = json.loads(run_python("-c", LIST_MODULES).stdout)
    after = json.loads(run_python("-c", f"import npu_persist; {LIST_MODULES}").stdout)
    assert set(after) - set(before) <= {"npu_persist", "__future__"}


@pytest.mark.parametrize(
    "statement",
    [
        "npu_persist.Store().resolve('tiny')",
        "npu_persist.list()",
        "npu_persist.verify('tiny')",
        "npu_persist.alias('tiny', 'prod')",
        "npu_persist.prune()",
    ],
)
def test_keeping_a_store_needs_none_of_the_big_packages(statement: str, tmp_path: Path) -> None:
    publish_tiny(Store())
    poisoned = poison(tmp_path / "poisoned", "torch", "openvino", "numpy", "safetensors")
    done = run_python("-c", f"import npu_persist; {statement}", path=poisoned)
    assert done.returncode == 0, done.stderr


def test_the_training_side_without_torch_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')\n")
    done = run_python("-c", "import npu_persist; npu_persist.persist", path=tmp_path)
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: npu_persist.persist needs torch, which is not installed here: "
        "python -m pip install 'npu_persist[export]'"
    )


def test_the_poison_works(tmp_path: Path) -> None:
    done = run_python("-c", "import torch", path=poison(tmp_path, "torch"))
    assert "torch was imported" in done.stderr
