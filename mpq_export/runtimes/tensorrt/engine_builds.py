"""Building a bundle's engine: found if it is there, else made by a process of its own."""

from __future__ import annotations

import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...architectures import architecture_of
from ...bundle import Bundle
from ...errors import BundleError, RuntimeUnavailable, UserError
from ...files import staged_file, write_json
from ...lowering.names import Target
from ...pipelines.registry import GENERAL
from ...progress import ProgressReporter
from ..cuda.gpu import Gpu, gpu_here
from ..gpu_kernels.cache_folder import own_cache_folder
from ..names import Runtime
from .building import SETTINGS, Job, builder_command, job_text, line_of_builder
from .engine_files import (
    PLUGIN,
    EngineIdentity,
    EngineRecord,
    engine_folder,
    read_record,
    verified_plan,
    writing_alone,
)
from .engine_source import EngineSource, read_source
from .flavour import environment
from .installed import MODULES, Installed, installed
from .kernels import multiprocessors
from .memory import available_mb, likely_peak_mb, resident_mb, workspace_bytes
from .trtexec import line_of_trtexec, trtexec_command

PARTS = 1000
"""Of the progress bar."""
_GLANCE_SECONDS = 0.5
_LITTLE_MB = 300
"""Where the system begins to stall or to kill."""
_MOST_WORDS, _MOST_ERRORS = 1000, 20


@dataclass(frozen=True)
class EngineRequest:
    """What is to be built.

    Attributes:
        target: ``trt`` or ``trt-int8``.
        runtime: ``trt`` or ``trt-rtx``.
        shapes: as on the command line; empty for the defaults.
        memory_limit_mb: of the builder; None is no limit.
    """

    target: Target
    runtime: Runtime
    shapes: str = ""
    memory_limit_mb: int | None = None


@dataclass(frozen=True)
class Engine:
    """An engine on disk.

    Attributes:
        path: of its plan.
        record: what it is.
        found: whether it was there before.
    """

    path: Path
    record: EngineRecord
    found: bool


def build(
    bundle: Bundle,
    request: EngineRequest,
    progress: ProgressReporter,
    warn: Callable[[str], None],
) -> Engine:
    """The engine that a request describes, built if it does not lie in the bundle.

    Args:
        bundle: lowered to the request's target.
        request: what is to be built.
        progress: in thousandths, with TensorRT's own word for what it does.
        warn: told when memory is likely to run out, or does.

    Raises:
        BundleError: the lowered model is none that TensorRT may be given.
        RuntimeUnavailable: TensorRT is not here, refuses the model, or its process ended.
    """
    source = read_source(bundle, request.target, request.shapes)
    here, gpu = installed(request.runtime), gpu_here()
    identity = identify(bundle, request, source, here, gpu)
    with writing_alone(bundle.path, warn) as folder:
        plan = folder / f"{identity.name}.plan"
        if (found := _found(bundle.path, identity)) is not None:
            return Engine(plan, found, True)
        _warn_before(source.size, request.memory_limit_mb, warn)
        rtx = request.runtime is Runtime.TRT_RTX
        job = Job(
            module=MODULES[request.runtime],
            model=str(source.model.absolute()),
            plan="",
            profile={
                name: [list(shape) for shape in shapes] for name, shapes in source.profile.items()
            },
            capabilities=list(identity.capabilities) if rtx else [],
            with_plugin=bool(identity.plugin),
            workspace=workspace_bytes(request.memory_limit_mb, source.size),
            timing_cache=None if rtx else _timing_cache(identity, warn),
        )
        watch = _Watch(request.memory_limit_mb, warn)
        record = _built(here, job, source, plan, identity, progress, watch)
        with staged_file(folder / f"{identity.name}.json") as stage:
            write_json(stage, record.model_dump())
    return Engine(plan, record, False)


def _built(
    here: Installed,
    job: Job,
    source: EngineSource,
    plan: Path,
    identity: EngineIdentity,
    progress: ProgressReporter,
    watch: _Watch,
) -> EngineRecord:
    """Have the job done; the plan takes its place when it is whole."""
    started = time.perf_counter()
    with staged_file(plan) as stage:
        own = replace(job, plan=str(stage.absolute()))
        progress.start("engine", PARTS)
        _supervise(_process(here, own), source.model, progress, watch)
        digest, size = _digest(stage)
        if size == 0:
            raise RuntimeUnavailable(
                "TensorRT's builder wrote no engine",
                where=source.model,
                why="; ".join(watch.said)[:_MOST_WORDS] or "It does not say why",
            )
    return EngineRecord(
        identity=identity,
        sha256=digest,
        size=size,
        constants=source.constants,
        seconds=round(time.perf_counter() - started, 1),
        peak_mb=watch.peak,
    )


def identify(
    bundle: Bundle,
    request: EngineRequest,
    source: EngineSource,
    here: Installed,
    gpu: Gpu | str,
) -> EngineIdentity:
    """What decides the engine; raises RuntimeUnavailable where none can be built here."""
    with_plugin = request.target is Target.TRT
    family = bundle.quantization.family
    return EngineIdentity(
        model=family if family and family != GENERAL else _class_name(bundle),
        bits=bundle.quantization.bits,
        target=request.target.value,
        shapes={name: [r.least, r.usual, r.largest] for name, r in source.ranges.items()},
        runtime=here.runtime.value,
        tensorrt=here.version,
        capabilities=list(here.capabilities(gpu)),
        plugin=PLUGIN if with_plugin else "",
        multiprocessors=multiprocessors(gpu) if with_plugin else 0,
        memory_limit_mb=request.memory_limit_mb,
        builder="bindings" if here.trtexec is None else "trtexec",
        settings=SETTINGS,
        model_files=dict(source.files),
    )


def _class_name(bundle: Bundle) -> str:
    return architecture_of(bundle.model_config).class_name


def _found(bundle: Path, identity: EngineIdentity) -> EngineRecord | None:
    """The engine, if it was built before and is whole; what is damaged is built again."""
    try:
        record = read_record(engine_folder(bundle) / f"{identity.name}.json")
        verified_plan(bundle, record)
    except BundleError:
        return None
    return record if record.identity == identity else None


def _warn_before(model_bytes: int, limit_mb: int | None, warn: Callable[[str], None]) -> None:
    needed, free = likely_peak_mb(model_bytes), available_mb()
    if free is not None and free < needed:
        warn(
            f"Building is likely to take {needed} MB of memory, {free} MB are free, swap "
            "space included: close other programs or add swap space, or the system may end it."
        )
    if limit_mb is not None and limit_mb < needed:
        warn(f"Building is likely to take {needed} MB of memory, more than the limit.")


def _timing_cache(identity: EngineIdentity, warn: Callable[[str], None]) -> str | None:
    """Of all models for one version and GPU; None where there is no folder for it."""
    name = f"timing-{identity.tensorrt}-sm{'-'.join(identity.capabilities)}.cache"
    try:
        return str(own_cache_folder() / name)
    except RuntimeUnavailable as error:
        warn(f"The next build is not faster: {error.paragraph()}")
        return None


class _Watch:
    """Looks at the builder's memory from time to time.

    Attributes:
        peak: MB of the builder at its height, as far as was seen.
        exceeded: whether it grew beyond its limit.
        said: the errors that it told of.
    """

    def __init__(self, limit_mb: int | None, warn: Callable[[str], None]) -> None:
        self._limit, self._warn = limit_mb, warn
        self._warned = False
        self.peak, self.exceeded = 0, False
        self.said: list[str] = []

    def note(self, said: str | None) -> None:
        """Keep what the builder says of an error; the first ones are the cause."""
        if said is not None and said not in self.said and len(self.said) < _MOST_ERRORS:
            self.said.append(said)

    def warn(self, text: str | None) -> None:
        """Pass on what costs no engine."""
        if text is not None:
            self._warn(text)

    def look(self, process: subprocess.Popen[bytes]) -> None:
        """Warn once when little is left; end a builder that is beyond its limit."""
        now, free = resident_mb(process.pid) or 0, available_mb()
        self.peak = max(self.peak, now)
        if free is not None and free < _LITTLE_MB and not self._warned:
            self._warned = True
            self._warn(f"{free} MB of memory are left, the builder has {now} MB.")
        if self._limit is not None and now > self._limit:
            self.exceeded = True
            process.kill()


@dataclass(frozen=True)
class _Process:
    """A builder: its command, what it is given, and how a line of its output reads."""

    command: list[str]
    given: bytes
    read: Callable[[bytes], dict[str, Any]]


def _process(here: Installed, job: Job) -> _Process:
    if here.trtexec is not None:
        return _Process(trtexec_command(here.trtexec, job), b"", line_of_trtexec)
    return _Process(builder_command(), job_text(job).encode(), line_of_builder)


def _supervise(builder: _Process, model: Path, progress: ProgressReporter, watch: _Watch) -> None:
    """Run the builder's process to its end, and tell what ended it."""
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            builder.command,
            env=dict(environment(Path(scratch))),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
        )  # fmt: skip
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with process.stdin:
                process.stdin.write(builder.given)
            reached, error = _follow(process, builder.read, progress, watch)
            status = process.wait()
        finally:
            process.kill()
            process.wait()
        said.seek(max(0, said.seek(0, 2) - _MOST_WORDS))
        words = said.read().decode(errors="replace").strip()
    if error is not None:
        more = (one for one in watch.said if one not in error["why"])
        why = " ".join(filter(None, [error["why"], *more, words]))[:_MOST_WORDS]
        raise RuntimeUnavailable(error["what"], where=error["where"], why=why, fix=error["fix"])
    if status != 0:
        raise _ended(model, status, words, watch)
    progress.advance(PARTS - reached)


def _follow(
    process: subprocess.Popen[bytes],
    read: Callable[[bytes], dict[str, Any]],
    progress: ProgressReporter,
    watch: _Watch,
) -> tuple[int, dict[str, str] | None]:
    """Show how far the builder says it is until it closes its output.

    Returns how many parts were shown, and its error, if it has one.
    """
    stream, reached, error, rest = process.stdout, 0, None, b""
    assert stream is not None
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            watch.look(process)
            if not selector.select(_GLANCE_SECONDS):
                continue
            if not (data := stream.read1(1 << 16)):  # type: ignore[attr-defined]
                return reached, error
            *lines, rest = (rest + data).split(b"\n")
            for line in map(read, lines):
                watch.note(line.get("said"))
                watch.warn(line.get("warning"))
                error = line.get("error", error)
                watch.peak = max(watch.peak, line.get("peak_mb", 0))
                if "phase" in line:
                    progress.note(line["phase"].lower())
                if "done" in line:
                    # Of two threads the one that came less far may report last.
                    now = max(reached, int(PARTS * line["done"]))
                    progress.advance(now - reached)
                    reached = now


def _ended(model: Path, status: int, words: str, watch: _Watch) -> UserError:
    fix = ""
    if watch.exceeded:
        why = f"It had {watch.peak} MB, more than the limit"
        fix = "Raise --memory-limit, or build for a smaller batch with --shapes batch:1"
    elif status == -signal.SIGKILL:
        why = f"The system killed it at {watch.peak} MB: memory ran out"
        fix = "Close other programs, add swap space, or build for a smaller batch: --shapes batch:1"
    else:
        said = "; ".join(watch.said)[:_MOST_WORDS]
        why = f"{said or words or 'It said nothing'} (exit code {status})"
    return RuntimeUnavailable("TensorRT's builder ended", where=model, why=why, fix=fix)


def _digest(path: Path) -> tuple[str, int]:
    import hashlib

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell()
