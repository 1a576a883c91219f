"""The native library: all nodes of domain ``mpq`` as operators of ONNX Runtime.

Any program registers it by its path, in C++, C# or Python::

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(native_library()))
    session = onnxruntime.InferenceSession("bundle/onnx/ort/model.onnx", options)

It is compiled when the package is installed. Its kernels are chosen by the processor, or by the
environment variable ``MPQ_CPU_KERNELS`` (read when a session is made).
"""

from __future__ import annotations

import ctypes
import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ..errors import RuntimeUnavailable

KERNELS_VARIABLE = "MPQ_CPU_KERNELS"
_PROJECT = "mpq-export"
_FILE = "mpq_export/native/libmpq_onnxruntime.so"


def native_library() -> Path:
    """Where the library lies; the same in normal and in editable installations.

    Raises:
        RuntimeUnavailable: there is none; the message says why and what to do.
    """
    try:
        library = Path(str(distribution(_PROJECT).locate_file(_FILE)))
    except PackageNotFoundError as error:
        raise _unavailable(f"The package {_PROJECT} is imported but not installed") from error
    if not library.is_file():
        raise _unavailable(
            "The package was installed without it: no C++17 compiler was found, or it failed"
        )
    return library


def kernel_names() -> tuple[str, ...]:
    """The kernels that this processor runs, fastest first; raises as :func:`native_library`."""
    library = native_library()
    try:
        names = ctypes.CDLL(str(library)).MpqKernelNames
    except (OSError, AttributeError) as error:
        raise _unavailable(f"{library} cannot be loaded: {error}") from error
    names.restype = ctypes.c_char_p
    return tuple(names().decode().split(","))


def chosen_kernels() -> str:
    """The kernels that a new session runs: the fastest, or those of ``MPQ_CPU_KERNELS``.

    Raises RuntimeUnavailable for a name that this processor does not run.
    """
    names, wanted = kernel_names(), os.environ.get(KERNELS_VARIABLE)
    if not wanted:
        return names[0]
    if wanted not in names:
        raise RuntimeUnavailable(
            f"The kernels '{wanted}' do not run here",
            where=KERNELS_VARIABLE,
            why=f"This library and processor have {', '.join(names)}",
            fix="Choose one of these, or unset the variable",
        )
    return wanted


def _unavailable(why: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        "The native library for ONNX Runtime is not there",
        why=why,
        fix="Install a C++ compiler (such as g++) and run pip install again, with -v to see it",
    )
