"""The verbs that change files, each on a small store: what the fault tests run at system-call level, and what they see.

A place is a folder with `home`, the store, and `out`, where exports go.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npu_persist.artifact.artifact import ARTIFACT_FILE, BLOB_FILE, Artifact
from npu_persist.artifact.attached import list_attached
from npu_persist.cache import CompileCache
from npu_persist.files.digest import digest_file
from npu_persist.files.filesystem import store_errors
from npu_persist.store import Store
from npu_persist.trust.signing import read_signatures, select_valid
from tests.support.artifacts import publish as publish_entry
from tests.support.attached import attach_npu
from tests.support.blobs import real_blob
from tests.support.graphs import publish_affine
from tests.support.pulls import put_folder
from tests.support.signers import write_private_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.hub_server import HubServer

CLI = "npu_persist.cli.main:main"
HERE = __name__

MODULES: tuple[str, ...] = (
    "npu_persist.cli.main", "npu_persist.store.export", "npu_persist.cache.transfer", "npu_persist.trust.signing",
    "npu_persist.runtime.load", "npu_persist.compilation.compile", "npu_persist.hub.pull", "huggingface_hub.hf_api",
    "cryptography.hazmat.primitives.serialization", HERE,
)  # fmt: skip
"""What an injector imports for them."""


@dataclass(frozen=True)
class Verb:
    """A verb.

    Attributes:
        function: What is called: `module:function`.
        arguments: Its arguments in a place.
        prepare: Fills a new place.
        first: What is run in a new place after that.
        steps: Whether it is several changes, of which each is whole: an error may leave some of them done.
        writes_out: Whether it writes to `out`.
        slow: Whether it takes seconds: fewer of its calls are taken.
        newest: The version of `affine` that has what it would publish; where it cannot read that, it makes another.
    """

    function: str
    arguments: Callable[[Path], list[Any]]
    prepare: Callable[[Path], object]
    first: Verb | None = None
    steps: bool = False
    writes_out: bool = False
    slow: bool = False
    newest: int | None = None

    def see(self, place: Path) -> dict[tuple[str, str], object]:
        """Return what a user sees in a place; a second `newest` counts as the first."""
        seen = see(place)
        if self.newest is not None:
            again = ("version", f"affine:{self.newest + 1}")
            if again in seen and seen[again] == seen["version", f"affine:{self.newest}"]:
                del seen[again]
                seen = {key: self.newest if to == self.newest + 1 else to for key, to in seen.items()}
        return seen

    def roots(self, place: Path) -> list[Path]:
        """Return the folders that it may change."""
        return [place / "home", *([place / "out"] if self.writes_out else [])]


def cli(*words: str, prepare: Callable[[Path], object], **fields: Any) -> Verb:
    """Make a verb of a command line; `{place}` stands for the place."""

    def arguments(place: Path) -> list[Any]:
        return [[*(word.replace("{place}", str(place)) for word in words), "--store", str(place / "home")]]

    return Verb(CLI, arguments, prepare, **fields)


def make_store(place: Path) -> Store:
    """Make a place with two versions, the alias `prod` on the first, and a signer's key."""
    (place / "out").mkdir(parents=True)
    store = Store(place / "home")
    publish_affine(store)
    publish_affine(store, openvino="2026.4.0")
    store.alias("affine:1", "prod")
    write_private_key(place, "acme")
    return store


def make_source(place: Path) -> Store:
    """Make a place with one version, and another in `source` to publish."""
    store = make_store(place)
    shutil.copytree(store.resolve("affine:2").path, place / "source", copy_function=shutil.copyfile)
    (place / "source" / "model.bin").unlink(missing_ok=True)
    store.remove("affine:2")
    return store


def make_first(place: Path) -> Store:
    """Make a place with a version of another name only."""
    store = make_source(place)
    other = place / "other"
    publish_affine(Store(other), name="first")
    shutil.rmtree(place / "source")
    shutil.copytree(other / "bundles/first/1", place / "source", copy_function=shutil.copyfile)
    (place / "source" / "model.bin").unlink(missing_ok=True)
    return store


def make_old(place: Path) -> Store:
    """Make a place whose second version has aliases of its own."""
    store = make_store(place)
    store.alias("affine:2", "old")
    store.alias("affine:2", "older")
    return store


def make_attached(place: Path) -> Store:
    """Make a place whose first version has something attached."""
    store = make_store(place)
    attach_npu(store.resolve("affine:1"))
    return store


def make_cached(place: Path) -> Store:
    """Make a place with two entries in the compile cache, one of them exported."""
    import npu_persist

    store = make_store(place)
    for reference in ("affine:1", "affine:2"):
        npu_persist.load(reference, "CPU", store=store)
    cache = CompileCache(store.home)
    cache.export(cache.entries()[0], place / "exported")
    return store


def make_import(place: Path) -> Store:
    """Make a place with one entry in the compile cache, and another one exported."""
    store = make_cached(place)
    shutil.rmtree(CompileCache(store.home).entries()[0].path)
    return store


def make_known(place: Path) -> Store:
    """Make a place in which a key is known."""
    from npu_persist.trust.keys import KeyRing
    from tests.support.signers import public_key

    store = make_store(place)
    KeyRing(store.home).add("owner", public_key("owner"))
    (place / "acme.pem").write_bytes(public_key("acme").to_pem())
    return store


def make_signed(place: Path) -> Store:
    """Make a place whose first version is signed by another key already."""
    import npu_persist

    store = make_attached(place)
    npu_persist.sign("affine:1", write_private_key(place, "owner"), store=store)
    return store


def make_leftovers(place: Path) -> Store:
    """Make a place in which runs were interrupted."""
    store = make_cached(place)
    store.remove("affine:2")
    (store.home / "bundles/affine/removed/2/compiled").mkdir()
    (store.home / "bundles/affine/removed/2/compiled/left").write_text("left")
    (store.home / "bundles/empty/aliases").mkdir(parents=True)
    for root in (store.home / "staging", store.home / "compile-cache/staging"):
        (root / "0123456789abcdef").mkdir(parents=True)
        (root / "0123456789abcdef/model.xml").write_text("left")
        (root / "0123456789abcdef.lock").touch()
    cache = CompileCache(store.home)
    cache.quarantine(cache.entries()[0], "for the test")
    attached = attach_npu(store.resolve("affine:1"))
    shutil.copytree(attached, attached.with_name(f"{attached.name}.0123abcd"))
    return store


def fill_hub(hub: HubServer, folder: Path) -> None:
    """Put two versions on a hub, with something attached, under the tags `older` and `newer`."""
    for tag in ("older", "newer"):
        bundle = publish_affine(Store(folder / tag), name="pulled", openvino=f"2026.4.{tag == 'older'}")
        attach_npu(bundle)
        put_folder(hub, bundle.path, repo="org/pulled", tag=tag)


def publish(home: str, source: str, alias: str) -> None:
    """Copy a bundle's folder into a staging directory and publish it."""
    store = Store(home)
    with store.stage() as staging:
        with store_errors("copy the bundle"):
            for path in Path(source).iterdir():
                shutil.copyfile(path, staging / path.name)
        store.publish(staging, alias)


def attach(home: str) -> None:
    """Attach another blob in place of the one that is there."""
    with store_errors("attach"):
        attach_npu(Store(home).resolve("affine:1"), real_blob() + b"x")


def fill_cache(home: str) -> None:
    """Put an entry into the compile cache."""
    with store_errors("fill the cache"):
        publish_entry(CompileCache(Path(home)))


def quarantine(home: str) -> None:
    """Quarantine an entry of the compile cache."""
    cache = CompileCache(Path(home))
    cache.quarantine(cache.entries()[0], "for the test")


def unalias(home: str) -> None:
    """Remove the alias."""
    Store(home).unalias("affine", "prod")


def persist(home: str, alias: str = "prod") -> None:
    """Persist a module."""
    import torch

    import npu_persist

    torch.manual_seed(0)
    npu_persist.persist(torch.nn.Linear(3, 2), "affine", (torch.ones(2, 3),), store=home, alias=alias)


def persist_several(home: str) -> None:
    """Persist two modules as one bundle."""
    import torch

    import npu_persist

    torch.manual_seed(0)
    examples = {name: npu_persist.Example(torch.nn.Linear(3, 2), (torch.ones(2, 3),)) for name in ("first", "second")}
    npu_persist.persist(examples, "several", store=home)


def load(home: str) -> int:
    """Load a version, run it, and return 0 if its answer is right."""
    import npu_persist
    from tests.support.loads import is_right

    return 0 if is_right(npu_persist.load("affine:1", "CPU", store=home)) else 60


PERSIST = Verb(f"{HERE}:persist", lambda place: [place / "home"], make_store, slow=True)
PULL = cli("pull", "org/pulled@older", "--alias", "prod", "--all", prepare=make_store, steps=True, slow=True)

VERBS: dict[str, Verb] = {
    "publish": Verb(
        f"{HERE}:publish", lambda place: [place / "home", place / "source", "prod"], make_source
    ),
    "first publish": Verb(
        f"{HERE}:publish", lambda place: [place / "home", place / "source", "new"], make_first
    ),
    "tag": cli("alias", "affine:2", "prod", prepare=make_store),
    "first tag": cli("alias", "affine:2", "dev", prepare=make_store),
    "untag": cli("unalias", "affine:prod", prepare=make_store),
    "attach": Verb(f"{HERE}:attach", lambda place: [place / "home"], make_attached),
    "first attach": Verb(f"{HERE}:attach", lambda place: [place / "home"], make_store),
    "remove": cli("remove", "affine:2", prepare=make_store),
    "remove --force": cli("remove", "affine:2", "--force", prepare=make_old, steps=True),
    "prune": cli("prune", prepare=make_leftovers, steps=True),
    "cache prune": cli("cache", "prune", "--max-size", "0", prepare=make_cached, steps=True),
    "cache publish": Verb(f"{HERE}:fill_cache", lambda place: [place / "home"], make_cached),
    "cache quarantine": Verb(f"{HERE}:quarantine", lambda place: [place / "home"], make_cached),
    "cache export": cli("cache", "export", "affine:1", "{place}/out/entry", prepare=make_cached, writes_out=True),
    "cache import": cli("cache", "import", "{place}/exported", prepare=make_import),
    "keys add": cli("keys", "add", "acme", "{place}/acme.pem", prepare=make_known),
    "keys remove": cli("keys", "remove", "owner", prepare=make_known),
    "sign": cli("sign", "affine:1", "--key", "{place}/acme.key", prepare=make_attached, steps=True),
    "sign again": cli("sign", "affine:1", "--key", "{place}/acme.key", prepare=make_signed, steps=True),
    "export": cli("export", "affine:1", "{place}/out/model", prepare=make_store, writes_out=True),
    "export ovms": cli(
        "export", "affine:1", "{place}/out/a/model", "--layout", "ovms", prepare=make_store, writes_out=True
    ),
    "verify": cli("verify", prepare=make_attached),
    "load": Verb(f"{HERE}:load", lambda place: [place / "home"], make_store),
    "load from the cache": Verb(f"{HERE}:load", lambda place: [place / "home"], make_cached),
    "compile": cli("compile", "affine:1", "--target", "CPU", prepare=make_store, slow=True),
    "pull": PULL,
    "pull a newer version": cli(
        "pull", "org/pulled@newer", "--alias", "prod", "--all", prepare=make_store, first=PULL, steps=True, slow=True
    ),
    "pull what is here": cli("pull", "org/pulled@older", "--all", prepare=make_store, first=PULL),
    "persist": PERSIST,
    "persist what is here": Verb(
        f"{HERE}:persist", lambda place: [place / "home", "new"], make_store, first=PERSIST, slow=True, newest=3
    ),
    "persist several": Verb(f"{HERE}:persist_several", lambda place: [place / "home"], make_store, slow=True),
}  # fmt: skip
"""All of them, by what they do."""

if find_spec("torch") is None:
    del VERBS["persist"], VERBS["persist what is here"], VERBS["persist several"]
else:
    MODULES += ("torch", "npu_persist.conversion.persist")


FILES = {"key": "home/keys/*.pem", "out": "out/**/[!.]*"}
"""Files that are seen by their content."""


def see(place: Path) -> dict[tuple[str, str], object]:
    """Return what a user sees in a place: versions, aliases, attached and cached artifacts, keys, exports.

    An alias of a version that was removed is not seen: it means nothing, and prune removes it.
    """
    store = Store(place / "home")
    seen: dict[tuple[str, str], object] = {}
    for entry in store.list():
        seen["version", entry.reference] = (entry.digest, entry.problem)
    for name in store.names():
        there = store.versions(name)
        seen |= {("alias", f"{name}:{alias}"): to for alias, to in store.aliases(name).items() if to in there}
    for entry in store.list():
        attached = list_attached(store.resolve(entry.reference))
        for _, artifact in sorted(attached, key=lambda one: (one[0] / ARTIFACT_FILE).lstat().st_mtime_ns):
            assert isinstance(artifact, Artifact), artifact
            seen["attached", f"{entry.reference} {artifact.target}"] = artifact.files[BLOB_FILE].digest  # the newest
    for kind, pattern in FILES.items():
        for path in place.glob(pattern):
            if path.is_file() and "/." not in str(path):
                seen[kind, path.relative_to(place).as_posix()] = digest_file(path)
    for path in place.glob("home/bundles/**/*.sig"):
        seen["signature", path.relative_to(place).as_posix()] = see_signatures(path)
    seen |= {("cache", entry.key): entry.problem for entry in CompileCache(store.home).entries()}
    return seen


def see_signatures(path: Path) -> object:
    """Return what is signed in a file by which keys, but not when."""
    found = read_signatures(path)
    assert found is not None
    valid = select_valid(path.read_bytes(), str(path), found.what, found.subject)
    return found.what, found.subject, valid and tuple(sorted(valid.signatures))


def tree(place: Path) -> set[str]:
    """Return the paths of all that is in a place."""
    return {path.relative_to(place).as_posix() for path in place.rglob("*")}
