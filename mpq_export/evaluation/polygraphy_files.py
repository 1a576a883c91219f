"""A run of a bundle as files that Polygraphy reads: other runtimes are compared with it by

``polygraphy run MODEL --onnxrt --load-inputs INPUTS --load-outputs OUTPUTS``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..bundle import Bundle
from ..errors import RuntimeUnavailable, UserError, missing_package
from ..files import staged_file
from ..runtimes.names import ENGINE_RUNTIMES, Runtime
from ..runtimes.onnxruntime_denoiser import make_session, runnable_graph

Feeds = Mapping[str, np.ndarray]


def save_run(
    bundle: Bundle, runtime: Runtime, feeds: Sequence[Feeds], inputs: Path, outputs: Path
) -> None:
    """Run the lowered model in our session of ONNX Runtime and write what went in and came out.

    Args:
        bundle: a bundle lowered to the runtime's target.
        runtime: one of the ONNX Runtime ways to run it.
        feeds: graph inputs, one entry per denoising step.
        inputs: file for the feeds, as ``--load-inputs`` reads it.
        outputs: file for the predictions, as ``--load-outputs`` reads it.
    """
    if runtime is Runtime.TORCH or runtime in ENGINE_RUNTIMES:
        raise RuntimeUnavailable(
            "Only runs in ONNX Runtime are saved for Polygraphy",
            where=f"--runtime {runtime.value}",
            fix="Choose ort, ort-portable, ort-functions or onnx",
        )
    if inputs.resolve() == outputs.resolve():
        raise UserError("Inputs and outputs are two files", where=inputs, fix="Name another one")
    try:
        from polygraphy.backend.onnxrt import OnnxrtRunner
        from polygraphy.comparator import Comparator
        from polygraphy.json import save_json
        from polygraphy.logger import G_LOGGER
    except ImportError as error:
        raise missing_package("polygraphy", "check", "Saving a run for Polygraphy") from error
    G_LOGGER.module_severity = G_LOGGER.ERROR
    session = make_session(runnable_graph(bundle, runtime))
    given = [dict(feed) for feed in feeds]
    results = Comparator.run([OnnxrtRunner(session, name=f"mpq-{runtime}")], data_loader=given)
    with staged_file(inputs) as stage:
        save_json(given, str(stage))
    with staged_file(outputs) as stage:
        results.save(str(stage))
