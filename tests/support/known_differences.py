"""Where a loaded model knowingly answers otherwise than torch: one list, of which tests and documents are made.

`tests/unit/conversion/test_known_differences.py` runs each case in torch and in a loaded model, and expects of both
what the case says. `python -m tests.support.known_differences` writes `docs/known_differences.md` from the list, and
the README's table where the README has one.

To add a case, append a `KnownDifference` to the section of `KNOWN_DIFFERENCES` that it belongs to (or a new section),
with both answers as the test prints them, and run the command above. A case that became right fails: delete it, and
write the documents again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DOCUMENT = Path(__file__).parents[2] / "docs" / "known_differences.md"
"""What is generated."""
README = DOCUMENT.parents[1] / "README.md"
"""Has a table of its own, between `TABLE_START` and `TABLE_END`."""
TABLE_START, TABLE_END = "<!-- known differences -->\n", "<!-- /known differences -->\n"

_SHOWN = 8
"""Inputs with more elements are not shown."""
_NAN, _INF = math.nan, math.inf


@dataclass(frozen=True)
class KnownDifference:
    """One operation on inputs for which a loaded model answers otherwise than torch.

    Attributes:
        operation: The operation, as code: "torch.relu(x)".
        when: What is special about the inputs: "NaN".
        function: What is persisted: a function of tensors, or a module.
        inputs: The inputs for which the answers differ. With `example` None they are the example of the call as well.
        torch: What torch gives, as (nested) lists or numbers; several outputs as a tuple; or the exception it raises.
        model: What the loaded model gives, in the same form.
        example: The example of the call that is persisted, where another one is needed.
        in_readme: Whether the README's table has it: only what users of real models may meet.
    """

    operation: str
    when: str
    function: Callable[..., Any] | torch.nn.Module
    inputs: Sequence[torch.Tensor]
    torch: Any
    model: Any
    example: Sequence[torch.Tensor] | None = None
    in_readme: bool = False

    @property
    def id(self) -> str:
        """A name for the test."""
        return f"{self.operation}-{self.when}"

    def row(self) -> str:
        """Return the row of the table."""
        inputs = ", ".join(f"`{_number(tensor.tolist())}`" for tensor in self.inputs)
        is_short = sum(tensor.numel() for tensor in self.inputs) <= _SHOWN
        when = f"{self.when}: {inputs}" if is_short else self.when
        cells = (f"`{self.operation}`", when, _show(self.torch), _show(self.model))
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


class _PaddedAttention(torch.nn.Module):
    """Attention of which nothing is left but the last bias."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(2, 2, batch_first=True)
        torch.nn.init.constant_(self.attention.out_proj.bias, 0.5)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0]
        return result


KNOWN_DIFFERENCES: dict[str, list[KnownDifference]] = {
    "NaN": [
        KnownDifference(
            "F.relu(x)",
            "x is NaN",
            F.relu,
            (torch.tensor([_NAN, -1, 2]),),
            [_NAN, 0, 2],
            [0, 0, 2],
            in_readme=True,
        ),
        KnownDifference(
            "torch.clamp(x, -1, 1)",
            "x is NaN; also relu6, hardtanh, hardswish and hardsigmoid",
            lambda x: x.clamp(-1, 1),
            (torch.tensor([_NAN, -2, 0.5]),),
            [_NAN, -1, 0.5],
            [-1, -1, 0.5],
        ),
        KnownDifference(
            "torch.maximum(x, y)",
            "one is NaN",
            torch.maximum,
            (torch.tensor([_NAN, 1]), torch.tensor([0, _NAN])),
            [_NAN, _NAN],
            [0, _NAN],
        ),
        KnownDifference(
            "torch.amax(x, 0)",
            "x has NaN; also amin",
            lambda x: x.amax(0),
            (torch.tensor([1, _NAN, 2]),),
            _NAN,
            2,
            in_readme=True,
        ),
        KnownDifference(
            "torch.argmax(x, 0)",
            "x has NaN; also argmin, and the indices of max and min",
            lambda x: x.argmax(0),
            (torch.tensor([1, _NAN, 2]),),
            1,
            2,
            in_readme=True,
        ),
        KnownDifference(
            "torch.sort(x)",
            "x has NaN, which torch puts last; also topk",
            lambda x: x.sort()[0],
            (torch.tensor([2, _NAN, 1]),),
            [1, 2, _NAN],
            [1, _NAN, 2],
            in_readme=True,
        ),
        KnownDifference(
            "F.max_pool1d(x, 2)",
            "x has NaN",
            lambda x: F.max_pool1d(x, 2),
            (torch.tensor([[[1, _NAN, 2, 3]]]),),
            [[[_NAN, 3]]],
            [[[1, 3]]],
        ),
        KnownDifference(
            "torch.exp(x)",
            "x is NaN",
            torch.exp,
            (torch.tensor([_NAN, 0]),),
            [_NAN, 1],
            [_INF, 1],
            in_readme=True,
        ),
        KnownDifference(
            "torch.softmax(x, 0)",
            "x has NaN",
            lambda x: x.softmax(0),
            (torch.tensor([_NAN, 0]),),
            [_NAN, _NAN],
            [_NAN, 0],
            in_readme=True,
        ),
        KnownDifference(
            "torch.sign(x)",
            "x is NaN",
            torch.sign,
            (torch.tensor([_NAN, -2]),),
            [0, -1],
            [_NAN, -1],
        ),
        KnownDifference(
            "torch.bucketize(x, edges)",
            "x is NaN; also searchsorted",
            lambda x: torch.bucketize(x, torch.tensor([0.0, 1])),
            (torch.tensor([_NAN, 2]),),
            [2, 2],
            [0, 2],
        ),
        KnownDifference(
            "x.scatter_reduce(0, index, y, 'amax')",
            "y has NaN",
            lambda x, y: x.scatter_reduce(0, torch.tensor([0]), y, "amax"),
            (torch.tensor([1.0, 2]), torch.tensor([_NAN])),
            [_NAN, 2],
            [1, 2],
        ),
        KnownDifference(
            "x.long()",
            "x is NaN, or beyond 32 bits",
            lambda x: x.long(),
            (torch.tensor([_NAN, 1e12, 3]),),
            [-9223372036854775808, 999999995904, 3],
            [-2147483648, -2147483648, 3],
            in_readme=True,
        ),
    ],
    "Infinities and large numbers": [
        KnownDifference(
            "torch.softmax(x, 0)",
            "x has +inf",
            lambda x: x.softmax(0),
            (torch.tensor([_INF, 0]),),
            [_NAN, _NAN],
            [_NAN, 0],
        ),
        KnownDifference(
            "x // y",
            "x is infinite",
            lambda x: x // 3,
            (torch.tensor([_INF, 7]),),
            [_NAN, 2],
            [_INF, 2],
        ),
        KnownDifference(
            "torch.remainder(x, y)",
            "x / y is beyond 2^24; also fmod",
            lambda x: torch.remainder(x, 3),
            (torch.tensor([1e10, 7]),),
            [1, 1],
            [0, 1],
        ),
        KnownDifference(
            "torch.fmod(x, y)",
            "y is infinite; also remainder",
            lambda x: torch.fmod(x, _INF),
            (torch.tensor([1.0, -2]),),
            [1, -2],
            [_NAN, _NAN],
        ),
        KnownDifference(
            "torch.atan2(y, x)",
            "both are infinite",
            torch.atan2,
            (torch.tensor([_INF]), torch.tensor([_INF])),
            [0.7853982],
            [_NAN],
        ),
        KnownDifference(
            "torch.std(x)",
            "squares overflow; also layer_norm",
            lambda x: x.std(),
            (torch.tensor([1e30, -1e30, 0]),),
            1e30,
            _INF,
        ),
        KnownDifference(
            "F.hardswish(x)",
            "x is beyond 5e37",
            F.hardswish,
            (torch.tensor([1e38, 1]),),
            [_INF, 0.6666667],
            [1e38, 0.6666667],
        ),
    ],
    "Small numbers, and signs of zero": [
        KnownDifference(
            "torch.exp(x)",
            "the result is below 1.2e-38",
            torch.exp,
            (torch.tensor([-90.0, 0]),),
            [8.194009e-40, 1],
            [0, 1],
        ),
        KnownDifference(
            "torch.atan2(y, x)",
            "y is -0.0",
            torch.atan2,
            (torch.tensor([-0.0]), torch.tensor([-1.0])),
            [-3.141593],
            [3.141593],
        ),
        KnownDifference(
            "torch.erfc(x)",
            "the result is below 1e-6, where the model has an absolute error of 1e-7",
            torch.erfc,
            (torch.tensor([4.0]),),
            [1.541726e-08],
            [0],
        ),
        KnownDifference(
            "torch.erfinv(x)",
            "1 - abs(x) is below 1e-5",
            torch.erfinv,
            (torch.tensor([0.999999]),),
            [3.457075],
            [3.449774],
        ),
        KnownDifference(
            "F.elu(x)",
            "x is negative and below 1e-7; also selu and celu",
            F.elu,
            (torch.tensor([-1e-8, 1]),),
            [-1e-08, 1],
            [0, 1],
        ),
    ],
    "Rounding at a border": [
        KnownDifference(
            "torch.remainder(x, y)",
            "x is a multiple of y that floats round; also fmod and //",
            lambda x: x % 0.1,
            (torch.tensor([1.0, 2.0]),),
            [0.09999999, 0.09999997],
            [0, 0],
        ),
    ],
    "Order among equals": [
        KnownDifference(
            "torch.topk(x, 2)[1]",
            "values are equal: torch gives any order, the model the first; also sort and kthvalue",
            lambda x: x.topk(2)[1],
            (torch.tensor([3.0, 2, 3, 3]),),
            [2, 3],
            [0, 2],
            in_readme=True,
        ),
    ],
    "Attention": [
        KnownDifference(
            "nn.MultiheadAttention(...)(x, x, x, padding)",
            "nothing but padding, `batch_first`: NaN from torch's fused path of inference, zero from its other one",
            _PaddedAttention(),
            (torch.zeros(1, 1, 2), torch.tensor([[True]])),
            [[[_NAN, _NAN]]],
            [[[0.5, 0.5]]],
        ),
    ],
    "Integers": [
        KnownDifference(
            "x * y",
            "an int64 result is beyond 32 bits; also sums and powers; persist warns",
            lambda x: x * 1000,
            (torch.tensor([2**22 + 1]),),
            [4194305000],
            [-100662296],
            example=(torch.tensor([2]),),
        ),
        KnownDifference(
            "torch.pow(x, y)",
            "y is a tensor of integers with a negative one",
            lambda x: torch.pow(torch.tensor([2]), x),
            (torch.tensor([-1]),),
            [0],
            [-(2**31)],
            example=(torch.tensor([3]),),
        ),
        KnownDifference(
            "x // y",
            "y is an integer zero, for which torch raises; also %",
            lambda x, y: x // y,
            (torch.tensor([7]), torch.tensor([0])),
            RuntimeError,
            [0],
            example=(torch.tensor([7]), torch.tensor([2])),
        ),
    ],
    "Precision": [
        KnownDifference(
            "x - 1e15",
            "float64 is computed as float32",
            lambda x: x - 1e15,
            (torch.tensor([1e15 + 1], dtype=torch.float64),),
            [1],
            [0],
            in_readme=True,
        ),
        KnownDifference(
            "x * 1e10",
            "float64 beyond 3.4e38, and infinity",
            lambda x: x * 1e10,
            (torch.tensor([1e38, _INF], dtype=torch.float64),),
            [1e48, _INF],
            [3.402823e38, 3.402823e38],
            in_readme=True,
        ),
        KnownDifference(
            "x.half().float()",
            "conversions to half precision and back are left out",
            lambda x: x.half().float(),
            (torch.tensor([1.0001, 70000]),),
            [1, _INF],
            [1.0001, 70000],
            in_readme=True,
        ),
        KnownDifference(
            "x * 300 * 300 / 300",
            "constants in half precision are multiplied first, and overflow",
            lambda x: x * 300 * 300 / 300,
            (torch.tensor([0.25], dtype=torch.float16),),
            [75],
            [_INF],
        ),
    ],
}
"""The cases, by the section of the document."""

_HEAD = """\
# Known differences

Generated by `python -m tests.support.known_differences`; do not edit. Each row is a test: it persists the operation
with `precision="fp32"`, runs it on the CPU, and expects both answers. What is not here is expected to be as torch's;
please report where it is not.
"""
TABLE_HEAD = "| operation | when | torch gives | the loaded model gives |\n|---|---|---|---|\n"
"""The columns' names."""


def document() -> str:
    """Return the text of the document."""
    sections = (f"\n## {title}\n\n{_table(cases)}" for title, cases in KNOWN_DIFFERENCES.items())
    return _HEAD + "".join(sections)


def with_table(readme: str) -> str:
    """Return the README with its table: what users of real models may meet."""
    before, start, rest = readme.partition(TABLE_START)
    _, end, after = rest.partition(TABLE_END)
    table = _table([case for cases in KNOWN_DIFFERENCES.values() for case in cases if case.in_readme])
    return f"{before}{start}{table}{end}{after}" if end else readme


def _table(cases: Sequence[KnownDifference]) -> str:
    return TABLE_HEAD + "".join(f"{case.row()}\n" for case in cases)


def _show(answer: Any) -> str:
    if isinstance(answer, type):
        return f"raises {answer.__name__}"
    if isinstance(answer, tuple):
        return ", ".join(map(_show, answer))
    return f"`{_number(answer)}`"


def _number(answer: Any) -> str:
    if isinstance(answer, list):
        return f"[{', '.join(map(_number, answer))}]"
    return f"{answer:.7g}" if isinstance(answer, float) else str(answer)


if __name__ == "__main__":
    DOCUMENT.write_text(document())
    README.write_text(with_table(README.read_text()))
