"""Engines by ``trtexec``, where TensorRT has no bindings for this Python.

JetPack 6 is such a place: its bindings are for Python 3.10 alone. ``trtexec`` lies beside its
TensorRT, and takes the plugin as the library that ``plugins/tensorrt`` builds.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ...errors import RuntimeUnavailable
from .building import Job
from .plugin_library import PLUGIN_VARIABLE, named_plugin
from .with_parent import ending_with_parent

USUAL_PLACE = "/usr/src/tensorrt/bin"
"""Where JetPack has it, on nobody's path."""
_LIBRARIES = ("libnvinfer.so.11", "libnvinfer.so.10")
_OLDEST = (10, 3)
_ASKING = "import sys; from {0} import library_version; print(library_version(sys.argv[1]))"
_LONGEST_LOADING = 120


def find_trtexec() -> Path | None:
    """On the path, or where JetPack has it."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), USUAL_PLACE])
    found = shutil.which("trtexec", path=path)
    return None if found is None else Path(found)


def trtexec_version() -> str:
    """Of the TensorRT that it runs, such as ``10.3.0``.

    Raises:
        RuntimeUnavailable: there is no such library, or it is older than 10.3.
    """
    for name in _LIBRARIES:
        # Loading takes memory that this process would not get back.
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-c", _ASKING.format(__name__), name],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LONGEST_LOADING,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise RuntimeUnavailable(
                "TensorRT's library cannot be loaded",
                where=name,
                why=f"It took more than {_LONGEST_LOADING} s",
            ) from error
        if done.returncode == 0:
            number = int(done.stdout)
            parts = (number // 10000, number % 10000 // 100, number % 100)
            version = ".".join(map(str, parts))
            if parts < _OLDEST:
                raise RuntimeUnavailable("TensorRT is too old", why=f"{version}; 10.3 is needed")
            return version
    raise RuntimeUnavailable(
        "TensorRT's library cannot be loaded", why=f"Neither {' nor '.join(_LIBRARIES)}"
    )


def library_version(name: str) -> int:
    """What a library of TensorRT says of itself, such as 100300."""
    version: int = ctypes.CDLL(name).getInferLibVersion()
    return version


def trtexec_command(program: Path, job: Job) -> list[str]:
    """The command that does a job; it loads a plugin by its registry, as ours wants it.

    Raises:
        RuntimeUnavailable: the model has packed nodes and no plugin library is named.
    """
    words = [
        str(program.absolute()),
        f"--onnx={job.model}",
        f"--saveEngine={job.plan}",
        "--stronglyTyped",
        "--skipInference",
        "--profilingVerbosity=detailed",
    ]
    for kind, index in (("min", 0), ("opt", 1), ("max", 2)):
        shapes = [
            f"{name}:{'x'.join(map(str, ranges[index]))}" for name, ranges in job.profile.items()
        ]
        words.append(f"--{kind}Shapes={','.join(shapes)}")
    if job.workspace is not None:
        words.append(f"--memPoolSize=workspace:{job.workspace >> 20}M")
    if job.timing_cache is not None:
        words.append(f"--timingCacheFile={job.timing_cache}")
    if job.with_plugin:
        library = named_plugin()
        if library is None:
            raise RuntimeUnavailable(
                "trtexec needs the plugin as a library",
                where=PLUGIN_VARIABLE,
                why="TensorRT has no bindings for this Python, in which the plugin could run",
                fix="Build plugins/tensorrt, and name libmpq_tensorrt.so by that variable; or "
                "build --target trt-int8, which needs none",
            )
        words.append(f"--dynamicPlugins={library}")
    return ending_with_parent(words)


def line_of_trtexec(line: bytes) -> dict[str, str]:
    """What a line of its log says: an error, or what it does now."""
    text = line.decode(errors="replace").strip()
    _, error, words = text.partition("[E] ")
    if error:
        return {"said": words}
    _, note, words = text.partition("[I] ")
    return {"phase": words[:60]} if note and words.strip() else {}
