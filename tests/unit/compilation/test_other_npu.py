"""Compiling for another machine's NPU: which blob is kept, what is said of it, and what goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import npu_persist
from npu_persist.artifact.attached import list_attached
from npu_persist.artifact.blob import read_blob
from npu_persist.compilation import other_npu
from npu_persist.compilation.toolchains.toolchain import CompilerRequest, CompilerResult
from npu_persist.errors import CompilationError, CompileTimeoutError, PropertyError, StoreError, ToolchainError
from tests.support.blobs import DESCRIPTOR, npu_blob, npu_trailer
from tests.support.graphs import publish_affine, publish_dynamic, publish_scaled, publish_text
from tests.support.processes import crash

if TYPE_CHECKING:
    from collections.abc import Callable

    from npu_persist.artifact.artifact import Artifact
    from npu_persist.bundle.bundle import Bundle
    from npu_persist.compilation.process.supervisor import Limits
    from npu_persist.store import Store


class Compiler:
    """A toolchain that writes blobs of given sizes, with trailers as real ones have."""

    name = "wine"

    def __init__(self, *, full: int | Exception = 20_000, weightless: int | Exception = 2_000) -> None:
        self.sizes = {False: full, True: weightless}
        self.requests: list[tuple[CompilerRequest, Limits]] = []
        self.leaves_weights = True

    def compile(self, request: CompilerRequest, limits: Limits) -> CompilerResult:
        self.requests.append((request, limits))
        size = self.sizes[request.weightless]
        if isinstance(size, Exception):
            raise size
        trailer = npu_trailer(
            init_sizes=(16,) if request.weightless and self.leaves_weights else (),
            descriptor=DESCRIPTOR.replace("4000", str(request.platform)),
        )
        Path(request.output).write_bytes(npu_blob(trailer, size))
        return CompilerResult(None, 2.0, 300 if request.weightless else 500, "2026.4.1-full", "8.4 of a test", ())

    @property
    def asked(self) -> list[bool]:
        return [request.weightless for request, _ in self.requests]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Compiler], Compiler]:
    """Let a compiler be the toolchain."""

    def use_it(compiler: Compiler) -> Compiler:
        for module in ("toolchains.available", "other_npu"):
            monkeypatch.setattr(f"npu_persist.compilation.{module}.choose_toolchain", lambda _: compiler)
        monkeypatch.setattr(other_npu, "SMALL_WEIGHTS", 1000)
        return compiler

    return use_it


def compile_scaled(store: Store, **options: Any) -> Artifact:
    publish_scaled(store, 64, precision="fp32")
    (result,) = npu_persist.compile("scaled", "NPU:4000", store=store, **options)
    assert result.artifact is not None
    return result.artifact


def inside(bundle: Bundle) -> list[str]:
    return [path.name for path, _ in list_attached(bundle)]


def test_the_description_says_what_compiled_it_and_what_it_needs(
    store: Store, use: Callable[[Compiler], Compiler]
) -> None:
    compiler = use(Compiler())
    artifact = compile_scaled(store, config={"NPU_TURBO": True}, memory_limit=10**9)
    assert (artifact.target, artifact.device) == ("NPU:4000", "NPU")
    assert artifact.identity == {"DEVICE_ARCHITECTURE": "4000"}
    assert artifact.requirements == "meta=2.7;ov=2026.4.1;desc=[compiler=8.4;npu=4000;t=4;elf=1.2.2;mi=11.4.10]"
    assert (artifact.toolchain, artifact.compiler, artifact.openvino) == ("wine", "8.4 of a test", "2026.4.1-full")
    assert artifact.properties == {"NPU_TURBO": "True"}  # as `load` writes what it is given
    bundle = store.resolve("scaled")
    assert (artifact.inputs, artifact.outputs) == (bundle.graph().inputs, bundle.graph().outputs)
    request, limits = compiler.requests[0]
    assert request.properties == {"NPU_TURBO": "YES"}  # as the compiler reads it
    assert (request.platform, Path(request.weights).name) == ("4000", "model.bin")
    assert limits.memory_limit == 10**9


@pytest.mark.parametrize(
    ("sizes", "asked", "kept"),
    [
        ({False: 20_000, True: 8_000}, [True], True),  # less than the weights in fp16
        ({False: 20_000, True: 12_000}, [True, False], True),
        ({False: 11_000, True: 12_000}, [True, False], False),
        ({False: CompilationError("no"), True: 12_000}, [True, False], True),
        ({False: CompileTimeoutError("late"), True: 12_000}, [True, False], True),
        ({False: 20_000, True: CompilationError("not without")}, [True, False], False),
    ],
)
def test_the_smaller_blob_is_kept(
    store: Store, use: Callable[[Compiler], Compiler], sizes: dict[bool, Any], asked: list[bool], *, kept: bool
) -> None:
    compiler = use(Compiler(full=sizes[False], weightless=sizes[True]))
    artifact = compile_scaled(store)
    assert compiler.asked == asked
    assert artifact.weightless is kept
    assert sizes[kept] < artifact.size < sizes[kept] + 1000
    assert list(artifact.files) == ["model.blob"]
    twice = len(asked) == 2 and not any(isinstance(size, Exception) for size in sizes.values())
    assert artifact.seconds == (4 if twice else 2)
    assert artifact.peak_memory == (500 if twice or not kept else 300)


def test_small_weights_stay_in_the_blob(store: Store, use: Callable[[Compiler], Compiler]) -> None:
    compiler = use(Compiler())
    publish_affine(store)
    (result,) = npu_persist.compile("affine", "NPU:4000", store=store)
    assert compiler.asked == [False]
    assert result.artifact is not None
    assert result.artifact.weightless is False


def test_weights_stay_in_the_blob_where_leaving_them_out_is_slow(
    store: Store, use: Callable[[Compiler], Compiler]
) -> None:
    compiler = use(Compiler())
    publish_scaled(store, 64, precision="fp32")
    (result,) = npu_persist.compile("scaled", "NPU:3720", store=store)
    assert compiler.asked == [False]
    assert result.artifact is not None


def test_a_compiler_that_leaves_the_weights_inside_is_not_asked_twice(
    store: Store, use: Callable[[Compiler], Compiler]
) -> None:
    compiler = use(Compiler(weightless=20_000))
    compiler.leaves_weights = False
    assert compile_scaled(store).weightless is False
    assert compiler.asked == [True]


@pytest.mark.parametrize("forced", [True, False])
def test_what_is_forced_is_all_that_is_compiled(
    store: Store, use: Callable[[Compiler], Compiler], *, forced: bool
) -> None:
    compiler = use(Compiler(full=30_000, weightless=40_000))
    assert compile_scaled(store, weightless=forced).weightless is forced
    assert compiler.asked == [forced]


def test_both_compilations_share_the_time_limit(store: Store, use: Callable[[Compiler], Compiler]) -> None:
    compiler = use(Compiler(weightless=12_000))
    compile_scaled(store, timeout=100)
    first, second = (limits.timeout or 0 for _, limits in compiler.requests)
    assert 0 < second < first <= 100


def test_a_limit_that_is_reached_first_is_not_tried_again(store: Store, use: Callable[[Compiler], Compiler]) -> None:
    compiler = use(Compiler(weightless=CompileTimeoutError("too late")))
    with pytest.raises(CompileTimeoutError, match="too late"):
        compile_scaled(store)
    assert compiler.asked == [True]
    assert inside(store.resolve("scaled")) == []


def test_a_misspelt_property_is_refused(store: Store, use: Callable[[Compiler], Compiler]) -> None:
    compiler = use(Compiler())
    with pytest.raises(PropertyError, match="did you mean 'NPU_TURBO'"):
        compile_scaled(store, config={"NPU_TURBOO": "YES"})
    assert compiler.requests == []


def test_a_compiler_that_dies_is_an_error_and_leaves_nothing(store: Store, use: Callable[[Compiler], Compiler]) -> None:
    class Dying(Compiler):
        def compile(self, request: CompilerRequest, limits: Limits) -> CompilerResult:
            Path(request.output).write_bytes(b"half a blob")
            crash(limits)
            raise AssertionError("it lives")

    use(Dying())
    with pytest.raises(CompilationError, match="without an answer"):
        compile_scaled(store)
    assert not list((store.resolve("scaled").path / "compiled").rglob("*.blob"))


def test_a_missing_toolchain_says_what_to_do(store: Store) -> None:
    publish_affine(store)
    with pytest.raises(ToolchainError, match=r"no toolchain|wine"):
        npu_persist.compile("affine", "NPU:4000", toolchain="wine", store=store)
    with pytest.raises(npu_persist.errors.UsageError, match="plugin, libraries, wine"):
        npu_persist.compile("affine", "NPU:4000", toolchain="magic", store=store)


@pytest.mark.usefixtures("wine")
class TestReally:
    def test_a_blob_for_each_target(self, store: Store) -> None:
        bundle = publish_affine(store)
        results = npu_persist.compile("affine", ["NPU:3720", "lunar-lake"], toolchain="wine", jobs=2, store=store)
        for result, number in zip(results, ("3720", "4000"), strict=True):
            assert result.artifact is not None
            assert result.path is not None
            blob = read_blob(result.path / "model.blob", "NPU")
            assert blob.requirements is not None
            assert blob.requirements.platform == number
            assert result.artifact.requirements == str(blob.requirements)
            assert result.artifact.openvino.startswith("2026.")
            assert (result.artifact.peak_memory or 0) > 1_000_000
        assert inside(bundle) == ["npu-3720", "npu-4000"]
        store.verify()

    def test_sizes_come_from_the_bucket(self, store: Store) -> None:
        publish_dynamic(store)
        buckets = [{"x": (2, 4), "y": (2, 3)}]
        (result,) = npu_persist.compile("dynamic", "NPU:4000", buckets=buckets, toolchain="wine", store=store)
        assert result.artifact is not None
        assert [port.shape for port in result.artifact.outputs] == [(2, 4), (2, 3), ()]

    def test_a_refusal_of_sizes_that_vary_names_the_way_to_buckets(self, store: Store) -> None:
        publish_text(store)
        with pytest.raises(CompilationError, match=r"ids, attention_mask vary.* buckets=\[\{'ids': \(4, 64\)\}\]"):
            npu_persist.compile("text", "NPU:4000", toolchain="wine", store=store)

    def test_a_disk_that_is_full_leaves_nothing(self, store: Store, small_disk: Path) -> None:
        import shutil

        from npu_persist.bundle.bundle import Bundle

        bundle = Bundle.open(shutil.copytree(publish_affine(store).path, small_disk / "copy"))
        (small_disk / "filler").write_bytes(bytes(980_000))  # the blob is of 61569 bytes
        with pytest.raises(StoreError, match="Free some space"):
            npu_persist.compile(bundle.path, "NPU:4000", toolchain="wine")
        assert not list((bundle.path / "compiled").rglob("*.blob"))
