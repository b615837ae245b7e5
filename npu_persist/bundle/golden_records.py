"""The manifest's records of the golden sample: the tolerance, and what was measured."""

from __future__ import annotations

from typing import Annotated

import msgspec

from npu_persist.bundle.document import Count, Part, RelativePath, Text

MAX_STEPS = 1000


class Tolerance(Part, frozen=True):
    """What the check against torch demands of every output.

    Attributes:
        max_relative: Largest allowed absolute difference, relative to the output's scale.
        cosine: Smallest allowed cosine similarity.
        mismatched: Largest share of the elements of an integer or boolean output that may differ, where floats decide
            on its values, as in argmax; other integers must be equal. For these outputs the other two do not count.
    """

    max_relative: float
    cosine: float
    mismatched: float = 0.0


class Difference(Part, frozen=True):
    """What the check against torch measured on one output; all numbers are finite.

    Attributes:
        output: The output's name.
        max_abs: Largest absolute difference.
        max_relative: The same, relative to the output's scale.
        cosine: Cosine similarity.
        mismatched: Share of the elements that differ, of an integer or boolean output; None for floats.
    """

    output: Text
    max_abs: float
    max_relative: float
    cosine: float
    mismatched: float | None = None


class Metric(Part, frozen=True):
    """What a function of the user's gave for the answers to these calls; both numbers are finite.

    Attributes:
        name: The metric's name; unique in the evaluation.
        torch: Its value for torch's answers.
        model: Its value for the model's, computed in float32 on a CPU.
    """

    name: Text
    torch: float
    model: float


class Evaluation(Part, frozen=True, omit_defaults=True):
    """How far the model was from torch on calls that the user gave at persist.

    Attributes:
        calls: How many.
        differences: For each output the worst of all calls, each measure by itself.
        metrics: The user's own measures; left out where there are none.
    """

    calls: Count
    differences: tuple[Difference, ...]
    metrics: tuple[Metric, ...] = ()


class Golden(Part, frozen=True, omit_defaults=True):
    """The golden sample.

    Attributes:
        path: Its safetensors file, relative to the bundle; also in `Manifest.files`.
        tolerance: What was demanded; None when the bundle was persisted without the check.
        differences: What was measured; None when the bundle was persisted without the check.
        evaluation: The same for other calls; None where none were given.
        steps: How many calls it has: several, one after the other, where the graph has states.
    """

    path: RelativePath
    tolerance: Tolerance | None
    differences: tuple[Difference, ...] | None
    evaluation: Evaluation | None = None
    steps: Annotated[int, msgspec.Meta(ge=1, le=MAX_STEPS)] = 1
