"""A whole model read and built by TensorRT-RTX with the C++ plugin library, without a GPU.

    python -m plugins.tensorrt.rtx_model PLUGIN MODEL PLAN

Start it with ``flavour.environment``. Prints TensorRT's errors and exits with 1 if it refuses.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

_MOST_IMAGES = 4


def build(plugin: str, model: str) -> tuple[bytes | None, list[str]]:
    """The plan, and what TensorRT and the plugin said was wrong."""
    import tensorrt_rtx as trt

    said: list[str] = []

    class Logger(trt.ILogger):
        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                said.append(text)

    logger = Logger()
    builder = trt.Builder(logger)
    assert trt.get_plugin_registry().load_library(plugin)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(model):
        return None, said
    config, shapes = builder.create_builder_config(), builder.create_optimization_profile()
    for index in range(network.num_inputs):
        own = network.get_input(index)
        if -1 in own.shape:
            least, most = (
                tuple(count if size == -1 else size for size in own.shape)
                for count in (1, _MOST_IMAGES)
            )
            shapes.set_shape(own.name, least, most, most)
    config.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, config)
    return None if plan is None else bytes(plan), said


def main(plugin: str, model: str, plan: str) -> int:
    """As the module's text says."""
    built, said = build(plugin, model)
    print(*said, sep="\n")
    if built is None:
        return 1
    Path(plan).write_bytes(built)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
