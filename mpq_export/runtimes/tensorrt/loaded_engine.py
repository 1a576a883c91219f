"""An engine in memory: found, verified, explained where it does not fit, and only then opened."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ...bundle import Bundle
from ...errors import RuntimeUnavailable
from ...lowering.names import Target
from ...lowering.targets import lowered_files
from ..cuda.context import PrimaryContext
from ..cuda.driver import Driver
from ..cuda.gpu import Gpu, find_gpu
from ..names import Runtime
from .engine_files import EngineRecord, fitting_record, verified_plan
from .installed import MODULES, Installed
from .plugin_library import load_plugin, named_plugin

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedEngine:
    """An engine that can run here.

    Attributes:
        trt: the module that runs it.
        engine: TensorRT's ``ICudaEngine``.
        record: what it is.
        driver: of the GPU.
        gpu: the GPU.
        context: its own, in which the engine was opened.
        plugin: how its packed layers run, in a few words.
        held: what has to live as long as the engine.
    """

    trt: ModuleType
    engine: Any
    record: EngineRecord
    driver: Driver
    gpu: Gpu
    context: PrimaryContext
    plugin: str
    held: tuple[Any, ...] = ()


def load_engine(bundle: Bundle, runtime: Runtime, target: Target = Target.TRT) -> LoadedEngine:
    """The bundle's engine for this machine, of one of its lowered variants.

    Raises:
        RuntimeUnavailable: there is no GPU or no TensorRT, or the latter refuses the engine.
        BundleError: no engine fits, with the reason for each; or it is damaged.
    """
    driver = Driver.load()
    gpu = find_gpu(driver)
    trt = _module(runtime)
    return load_with(trt, Installed(runtime, trt.__version__), driver, gpu, bundle, target)


def load_with(
    trt: ModuleType,
    here: Installed,
    driver: Driver,
    gpu: Gpu,
    bundle: Bundle,
    target: Target = Target.TRT,
) -> LoadedEngine:
    """The same with everything at hand; raises as :func:`load_engine`."""
    files = lowered_files(bundle.path, target)
    record = fitting_record(bundle.path, target.value, files, here, gpu)
    plan = verified_plan(bundle.path, record)
    context = PrimaryContext(driver, gpu.ordinal)
    context.make_current()
    plugin = _register_plugin(trt, gpu) if target is Target.TRT else "plain INT8"
    logger = _logger(trt)
    opener = trt.Runtime(logger)
    # Mapped, not read: pages of the plan go when memory is short.
    engine = opener.deserialize_cuda_engine(plan.data)
    if engine is None:
        raise RuntimeUnavailable(
            f"{here} cannot open the engine",
            where=record.plan,
            why="; ".join(logger.errors) or "It does not say why",
            fix=f"Build it again: remove it, and run mpq-build {bundle.path}",
        )
    return LoadedEngine(trt, engine, record, driver, gpu, context, plugin, (logger, opener))


def _module(runtime: Runtime) -> ModuleType:
    module = MODULES[runtime]
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a library of it cannot be loaded
        rtx = runtime is Runtime.TRT_RTX
        fix = "pip install 'mpq-export[trt]'" if rtx else "JetPack or NVIDIA's SDK"
        raise RuntimeUnavailable(
            f"The Python package '{module}' cannot be used",
            why=str(error),
            fix=f"It comes with: {fix}",
        ) from error


def _register_plugin(trt: ModuleType, gpu: Gpu) -> str:
    """Make the packed layers' operators known."""
    if (library := named_plugin()) is not None:
        load_plugin(trt, library)
        return f"plugin {library.name}"
    from ..gpu_kernels.choice import gpu_kernels
    from .plugin import register_plugins

    register_plugins(trt, gpu_kernels(gpu), gpu.multiprocessors)
    return "plugin in Python"


def _logger(trt: ModuleType) -> Any:
    """Keeps TensorRT's errors, and passes them on."""

    class Logger(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(text)
                _log.error("%s", text)

    return Logger()
