"""A graph takes over the process that compiles it, which then answers what it likes.

Attack: answers of other types, errors that name anything in a module or set any attribute, artifacts of another graph,
floods of messages, endless lines, nesting without end, numbers that are none.

Before: the answer was JSON, but an error's class was any name in `npu_persist.errors`, called with a text, and every
attribute could be set, `exit_code` and `args` among them; messages were not typed, and kept however many came. Now each
answer and message is a record of its type, or a CompilationError; the caller's memory is bounded.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import npu_persist
from npu_persist import errors
from npu_persist.artifact.artifact import Artifact
from npu_persist.benchmark.worker import Message
from npu_persist.compilation import jobs
from npu_persist.compilation.process.memory import read_memory
from npu_persist.compilation.process.python import run_module
from npu_persist.compilation.process.supervisor import Limits
from npu_persist.errors import CompilationError, FileIntegrityError, NpuPersistError
from npu_persist.store import Store
from tests.support.graphs import publish_affine

if TYPE_CHECKING:
    from pathlib import Path

WORKER = """
import os, sys, time
request = sys.stdin.readline()
{code}
sys.stdout.flush()
time.sleep(600)
"""
MINUTE = Limits(timeout=60)
MAX_GROWTH = 300 * 1000**2


class Request(msgspec.Struct):
    pass


class Sum(msgspec.Struct):
    sum: int


@pytest.fixture
def compromised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run code in place of a worker, and return what its caller gets."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(code: str, *, result: Any = Sum, **options: Any) -> Any:
        (tmp_path / "compromised.py").write_text(WORKER.replace("{code}", code))
        return run_module("compromised", Request(), result, MINUTE, **options).result

    return run


def answering(**message: Any) -> str:
    return f"print({json.dumps(message)!r})"


@pytest.mark.parametrize(
    "result",
    [
        None, 3, "3", [], {}, {"sum": "3"}, {"sum": None}, {"sum": 1.5}, [[1]],
        {"sum": {"py/object": "os.system"}},
    ],
)  # fmt: skip
def test_an_answer_of_another_type(compromised: Any, result: Any) -> None:
    with pytest.raises(CompilationError, match="did not return the expected data"):
        compromised(answering(result=result))


@pytest.mark.parametrize(
    "failure",
    [
        "no failure", {"kind": "CompilationError"}, {"kind": ["CompilationError"], "message": ""},
        {"kind": "CompilationError", "message": "x", "attributes": {"path": ["list"]}},
        {"kind": "CompilationError", "message": "x", "attributes": []},
    ],
)  # fmt: skip
def test_a_failure_of_another_type(compromised: Any, failure: Any) -> None:
    with pytest.raises(CompilationError, match="did not return the expected data"):
        compromised(answering(failure=failure))


@pytest.mark.parametrize("kind", [*sorted(set(vars(errors))), "mro", "os.system", "", "💥"])
def test_a_failure_is_an_error_of_this_package_whatever_it_names(compromised: Any, kind: str) -> None:
    with pytest.raises(NpuPersistError) as caught:
        compromised(answering(failure={"kind": kind, "message": "text"}))
    assert str(caught.value) == "text"


@pytest.mark.parametrize(
    "attributes",
    [
        {"exit_code": 0}, {"args": "ab"}, {"__class__": "x"}, {"__cause__": "x"}, {"__dict__": "x"},
        {"__traceback__": "x"}, {"with_traceback": "x"}, {"add_note": "x"}, {"other": "x"}, {"errno": 2},
    ],
)  # fmt: skip
def test_a_failure_has_the_attributes_of_its_class(compromised: Any, attributes: Any) -> None:
    failure = {"kind": "FileIntegrityError", "message": "text", "attributes": {**attributes, "path": "a.xml"}}
    with pytest.raises(FileIntegrityError) as caught:
        compromised(answering(failure=failure))
    assert (str(caught.value), caught.value.exit_code, caught.value.path) == ("text", 4, "a.xml")
    assert vars(caught.value).keys() == {"path", "expected", "got"}


@pytest.mark.parametrize(
    "message",
    [
        None, 3, "text", {"warning": 3}, {"unknown": 1}, {"interval": 0}, {"interval": -1}, {"interval": "1"},
        {"latencies": "no base64!"}, {"latencies": "AAAA"}, {"loaded": {}}, {"layer": {"name": "a"}},
    ],
)  # fmt: skip
def test_a_message_of_another_type(compromised: Any, message: Any) -> None:
    received: list[Message] = []
    code = f"{answering(message=message)}\n{answering(result={'sum': 1})}"
    with pytest.raises(CompilationError, match="did not return the expected data"):
        compromised(code, on_message=received.append, message=Message)
    assert received == []


@pytest.mark.parametrize(
    "line",
    [
        '{"result": {"sum": NaN}}', '{"result": {"sum": -Infinity}}', '{"result": {"sum": ' + "9" * 5000 + "}}",
        '{"result": ' + "[" * 100_000 + "]" * 100_000 + "}", '{"result": {"sum": 1}, "failure": null}', '{"answer": 1}',
    ],
)  # fmt: skip
def test_what_is_no_answer_is_log(compromised: Any, line: str) -> None:
    code = f"print({line!r})\nsys.stdout.flush()\nos._exit(3)"
    with pytest.raises(CompilationError, match=r"exit code 3 .*without an answer"):
        compromised(code)


def test_a_flood_of_messages_does_not_fill_the_callers_memory(compromised: Any) -> None:
    """500 messages of a megabyte, to a caller that takes its time."""
    before = read_memory().now
    grown: list[int] = []

    def receive(message: str) -> None:
        grown.append((read_memory().now or 0) - (before or 0) - len(message))

    code = f"""
text = '{{"message": "' + "x" * 1000_000 + '"}}'
for _ in range(500):
    print(text)
{answering(result={"sum": 5})}
"""
    assert compromised(code, on_message=receive, message=str).sum == 5
    assert len(grown) == 500
    assert max(grown) < MAX_GROWTH


def test_an_endless_line_does_not_fill_it(compromised: Any) -> None:
    before = read_memory().now or 0
    code = f"""
for _ in range(500):
    sys.stdout.write("x" * 1000_000)
print()
{answering(result={"sum": 5})}
"""
    assert compromised(code).sum == 5
    assert (read_memory().now or 0) - before < MAX_GROWTH


def test_the_artifact_of_another_graph_is_not_attached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler's process answers with an artifact that is well-formed, and was compiled for something else."""
    store = Store(tmp_path / "home")
    bundle = publish_affine(store)

    def run(*arguments: Any) -> Any:
        answer: Any = run_module(*arguments)
        other = msgspec.structs.replace(Artifact.from_json(answer.result.encode()), properties={"NUM_STREAMS": "7"})
        return replace(answer, result=other.to_json().decode())

    monkeypatch.setattr(jobs, "run_module", run)
    with pytest.raises(CompilationError, match="returned an artifact for something else"):
        npu_persist.compile("affine", ["CPU"], store=store)
    assert not list((bundle.path / "compiled").glob("*/artifact.json"))
