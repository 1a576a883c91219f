"""One engine from a lowered model: what the builder's own process does.

``engine_builds`` starts it with a job on stdin, as JSON, and reads lines of JSON from its stdout:
how far it is, an error that is the user's, or that it is done. TensorRT-RTX ends a process that
lacks its environment, the system kills one that takes too much memory, and either must not take
the command along; and what it has allocated is gone with it.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from ...errors import RuntimeUnavailable, UserError
from ...files import staged_file
from .memory import own_peak_mb
from .phases import PhaseTree
from .plugin_library import load_plugin, named_plugin
from .shapes import Profile
from .with_parent import end_with_parent

Report = Callable[[dict[str, Any]], None]
SETTINGS = 2
"""Of the builder, here and of trtexec: raised where either is asked for something else, so that
engines built by the former settings are not taken for these."""


@dataclass(frozen=True)
class Job:
    """One engine.

    Attributes:
        module: ``tensorrt`` or ``tensorrt_rtx``.
        model: path of ``model.onnx``; a second file is found beside it.
        plan: where the engine is written.
        profile: for the inputs with free axes.
        capabilities: that TensorRT-RTX builds for; empty for the GPU that is here.
        with_plugin: whether the model has packed nodes.
        workspace: bytes that layers may take, None as many as they want.
        timing_cache: a file of earlier measurements, read and written; None without.
    """

    module: str
    model: str
    plan: str
    profile: dict[str, list[list[int]]]
    capabilities: list[str]
    with_plugin: bool
    workspace: int | None = None
    timing_cache: str | None = None


def build_engine(trt: ModuleType, job: Job, report: Report) -> None:
    """Write the serialised engine of a model of a ``trt`` target, strongly typed.

    Args:
        trt: the job's module, with the plugins registered.
        job: what is built.
        report: told how far it is.

    Raises:
        RuntimeUnavailable: TensorRT refuses the model; with its words and the node's name.
    """
    said = _Said(trt, report)
    builder = trt.Builder(said.logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, said.logger)
    if not parser.parse_from_file(job.model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        why = "; ".join(f"{e.node_name() or e.node()}: {e.desc()}" for e in errors)
        raise RuntimeUnavailable("TensorRT cannot read the model", where=job.model, why=why)
    config = builder.create_builder_config()
    config.progress_monitor = monitor = _monitor(trt, report)
    # What a profile of the engine says of its layers; the default is their names alone.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        # Of TensorRT-RTX: an engine that allocates by itself cannot be recorded as a CUDA graph.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if job.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace)
    if job.capabilities:
        config.num_compute_capabilities = len(job.capabilities)
        for index, capability in enumerate(job.capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability}"), index)
    shapes = builder.create_optimization_profile()
    for name, ranges in _tuples(job.profile).items():
        shapes.set_shape(name, *ranges)
    config.add_optimization_profile(shapes)
    timing = _with_timing_cache(config, job.timing_cache, report)
    plan = builder.build_serialized_network(network, config)
    del monitor  # it had to outlive the build
    if plan is None:
        why = "; ".join(said.errors)
        raise RuntimeUnavailable("TensorRT cannot build the model", where=job.model, why=why)
    measured = b"" if timing is None else bytes(config.get_timing_cache().serialize())
    # The model's own copies go before the plan is written: a small board has no room for both.
    del parser, network, config, shapes
    with open(job.plan, "wb") as stream:
        stream.write(memoryview(plan))
    if timing is not None:
        _keep_timing_cache(timing, measured, report)


def _strongly_typed(trt: ModuleType) -> int:
    """The flag, where networks are not always so, as from version 11 on."""
    flags = trt.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def _tuples(profile: dict[str, list[list[int]]]) -> Profile:
    return {
        name: (tuple(least), tuple(usual), tuple(largest))
        for name, (least, usual, largest) in profile.items()
    }


def _with_timing_cache(config: Any, file: str | None, report: Report) -> Path | None:
    """Let a builder begin with what earlier ones measured; the file for what it measures now."""
    if file is None:
        return None
    path = Path(file)
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError as error:
        report({"warning": f"{path} cannot be read: {error.strerror}. Kernels are timed anew."})
        content = b""
    earlier = config.create_timing_cache(content)
    if earlier is None or not config.set_timing_cache(earlier, False):
        # Damaged, or of another version or GPU after all: begin anew rather than not at all.
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return path


def _keep_timing_cache(path: Path, measured: bytes, report: Report) -> None:
    """For the next build, which it makes faster; this one is whole without."""
    try:
        with staged_file(path) as stage:  # builds of other bundles may read and write it now
            stage.write_bytes(measured)
    except UserError as error:
        report({"warning": f"The next build is not faster: {error.paragraph()}"})


def _monitor(trt: ModuleType, report: Report) -> Any:
    """TensorRT tells it of phases within phases; it tells of the whole."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.tree = PhaseTree()

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.tree.start(name, parent, steps)
            self.tell(name)

        def step_complete(self, name: str, step: int) -> bool:
            self.tree.complete(name, step)
            self.tell(name)
            return True

        def phase_finish(self, name: str) -> None:
            self.tree.finish(name)

        def tell(self, name: str) -> None:
            report({"done": round(self.tree.done, 4), "phase": name})

    return Monitor()


class _Said:
    """TensorRT's errors, which it tells a logger alone; reported at once, for it may end the
    process where a build fails."""

    def __init__(self, trt: ModuleType, report: Report) -> None:
        errors: list[str] = []

        class Logger(trt.ILogger):  # type: ignore[name-defined]
            def log(self, severity: Any, text: str) -> None:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    errors.append(text)
                    report({"said": text})

        self.logger, self.errors = Logger(), errors


def main() -> None:
    """Do the job on stdin."""
    end_with_parent()
    job = Job(**json.load(sys.stdin))
    lines, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no report
    report = reporter(lines)
    logging.getLogger(__package__).addHandler(_Reported(report))
    try:
        trt = importlib.import_module(job.module)
        if job.with_plugin:
            _register_plugin(trt)
        build_engine(trt, job, report)
        report({"peak_mb": own_peak_mb()})
    except UserError as error:
        parts = {"what": error.what, "where": error.where, "why": error.why, "fix": error.fix}
        report({"error": parts})
        sys.exit(2)


def reporter(stream: TextIO) -> Report:
    """Writes every report as a line of its own, whichever of TensorRT's threads it comes from."""
    lock = threading.Lock()

    def report(line: dict[str, Any]) -> None:
        text = json.dumps(line) + "\n"
        with lock:
            stream.write(text)
            stream.flush()

    return report


class _Reported(logging.Handler):
    """Reports what the plugin in Python logs: TensorRT does not pass on why it refused."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.ERROR)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        """One error."""
        self._report({"said": record.getMessage()})


def _register_plugin(trt: ModuleType) -> None:
    if (library := named_plugin()) is not None:
        load_plugin(trt, library)
        return
    from .kernels import register_for_building

    register_for_building(trt)


def builder_command() -> list[str]:
    """Starts the process that does a job; nothing in the current folder is imported."""
    return [sys.executable, "-P", "-m", __name__]


def line_of_builder(line: bytes) -> dict[str, Any]:
    """What the process reports."""
    report: dict[str, Any] = json.loads(line)
    return report


def job_text(job: Job) -> str:
    """What the process is given."""
    return json.dumps(asdict(job))


if __name__ == "__main__":
    main()
