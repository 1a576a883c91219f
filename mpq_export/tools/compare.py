"""Are two predictions of the model the same, as far as a quantised network's can be?

Element by element they are not: where one runtime rounds a sum differently in its last bit, a code
flips, and a low-bit network makes percents of it. So the error is measured over the whole
prediction, ``|a - b| / |b|``, and must stay below ``MPQ_LIMIT`` (0.25 if it is not set). Wrong
weights, scales or step tables give errors around 1.

For Polygraphy: ``--compare-func-script onnx/trt/tools/compare.py``. For files that Polygraphy
(``--save-outputs``) or trtexec (``--exportOutput``) has written, the reference first::

    python onnx/trt/tools/compare.py reference.json found.json
"""

from __future__ import annotations

import json
import os
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

USUAL_LIMIT = 0.25


def relative_error(found: np.ndarray, reference: np.ndarray) -> float:
    """``|found - reference| / |reference|``; infinite where a number is not finite."""
    difference = np.asarray(found, np.float64) - np.asarray(reference, np.float64)
    if not np.isfinite(difference).all():
        return float("inf")
    norm = float(np.linalg.norm(reference))
    return float(np.linalg.norm(difference)) / max(norm, 1e-30)


def judge(
    found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> OrderedDict[str, bool]:
    """Whether every output is close enough; says how close."""
    limit = float(os.environ.get("MPQ_LIMIT", USUAL_LIMIT))
    if set(found) != set(reference):
        raise ValueError(f"outputs differ: {sorted(found)} and {sorted(reference)}")
    verdict = OrderedDict()
    for name in sorted(reference):
        if np.size(found[name]) != np.size(reference[name]):
            raise ValueError(f"{name} has {np.shape(found[name])}, not {np.shape(reference[name])}")
        error = relative_error(np.ravel(found[name]), np.ravel(reference[name]))
        print(f"{name}: relative error {error:.3%}, limit {limit:.0%}")
        verdict[name] = error <= limit
    return verdict


def compare_outputs(run0: Any, run1: Any) -> OrderedDict[str, bool]:
    """What Polygraphy calls for every set of inputs; the second runner is the reference."""
    return judge(dict(run0), dict(run1))


def read_outputs(path: Path) -> list[dict[str, np.ndarray]]:
    """One entry for every set of inputs, of a file of Polygraphy's or trtexec's."""
    data = json.loads(path.read_text())
    if isinstance(data, list):
        return [{entry["name"]: np.array(entry["values"], np.float64) for entry in data}]
    from polygraphy.comparator import RunResults

    (_, iterations), *_ = RunResults.load(str(path)).items()
    return [dict(iteration) for iteration in iterations]


def main(reference: Path, found: Path) -> bool:
    """Compare two files; where one has more sets of inputs, those that both have."""
    pairs = list(zip(read_outputs(found), read_outputs(reference), strict=False))
    verdicts = [all(judge(*pair).values()) for pair in pairs]
    print(f"{sum(verdicts)} of {len(verdicts)} predictions are within the limit")
    return bool(verdicts) and all(verdicts)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Give two files: REFERENCE FOUND")
    sys.exit(0 if main(Path(sys.argv[1]), Path(sys.argv[2])) else 1)
