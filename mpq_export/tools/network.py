"""The model beside this folder as TensorRT's network, with the plugin of its packed layers.

Polygraphy's own ``--plugins`` loads a library without registering what it holds. So it is given
this script in the place of the model::

    polygraphy convert onnx/trt/tools/network.py --model-type trt-network-script \
        --convert-to trt -o model.plan

``MPQ_TENSORRT_PLUGIN`` names the library that plugins/tensorrt builds; without it the plugin in
Python is taken, of an installed mpq-export. ``POLYGRAPHY_USE_TENSORRT_RTX=1`` takes TensorRT-RTX.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

MODEL = Path(__file__).parents[1] / "model.onnx"


def load_network() -> tuple[Any, Any, Any]:
    """TensorRT's builder, network and parser."""
    rtx = os.environ.get("POLYGRAPHY_USE_TENSORRT_RTX", "0") not in ("", "0")
    trt = importlib.import_module("tensorrt_rtx" if rtx else "tensorrt")
    register(trt)
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    flags = trt.NetworkDefinitionCreationFlag
    strongly_typed = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0
    network = builder.create_network(strongly_typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(MODEL)):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise RuntimeError(f"TensorRT cannot read {MODEL}: {'; '.join(errors)}")
    return builder, network, parser


def register(trt: Any) -> None:
    """Make the packed layers' operators known to TensorRT."""
    library = os.environ.get("MPQ_TENSORRT_PLUGIN")
    if library is None:
        from mpq_export.runtimes.tensorrt.kernels import register_for_building

        register_for_building(trt)
    elif trt.get_plugin_registry().load_library(library) is None:
        raise RuntimeError(f"TensorRT cannot load {library}")
