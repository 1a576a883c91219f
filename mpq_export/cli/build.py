"""``mpq-build``: a TensorRT engine from a lowered bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RuntimeUnavailable, UserError
from ..lowering.names import ENGINE_TARGETS, Target
from ..runtimes.names import ENGINE_RUNTIMES, Runtime
from . import console

if TYPE_CHECKING:
    from ..runtimes.tensorrt.engine_builds import Engine

EPILOG = console.examples(
    "mpq-build out/digits-w3a4",
    "mpq-build out/digits-w3a4 --runtime trt-rtx --shapes batch:1..8",
    "mpq-build out/sd-w4a8 --shapes sample:2x4x64x64,tokens:77 --memory-limit 5000",
    "mpq-build out/digits-w3a4 --target trt-int8",
)


def build(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder, lowered with --target trt.")],
    shapes: Annotated[
        str,
        typer.Option(
            help="Sizes that the engine takes: batch:1..8, or an input's shape such as "
            "sample:1..2..8x4x64x64 (least, usual, largest); default 1 to 4 images, tuned for 1."
        ),
    ] = "",
    memory_limit: Annotated[
        int | None,
        typer.Option(min=256, help="Most memory of the builder in MB; it is ended beyond that."),
    ] = None,
    runtime: Annotated[
        Runtime | None,
        typer.Option(help="trt or trt-rtx; default: TensorRT where it and a GPU are, else RTX."),
    ] = None,
    target: Annotated[
        Target, typer.Option(help="trt: our packed layers; trt-int8: plain INT8, no plugin.")
    ] = Target.TRT,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Build the engine of a bundle: on the machine that runs it, or with TensorRT-RTX on any.

    An engine that was built before is found again by what decides it: the model, sizes, versions
    and GPU. It lies in the bundle's folder 'engine', with a record of its hash beside it.
    """
    from ..bundle import read_bundle
    from ..runtimes.cuda.gpu import gpu_here
    from ..runtimes.tensorrt.engine_builds import EngineRequest
    from ..runtimes.tensorrt.engine_builds import build as build_engine
    from ..runtimes.tensorrt.installed import usual_runtime

    if runtime not in (*ENGINE_RUNTIMES, None) or target not in ENGINE_TARGETS:
        raise UserError(
            "Engines are TensorRT's",
            where=f"--runtime {runtime}" if target in ENGINE_TARGETS else f"--target {target}",
            fix="Choose --runtime trt or trt-rtx, --target trt or trt-int8",
        )
    opened = read_bundle(bundle)
    chosen = usual_runtime(gpu_here()) if runtime is None else runtime
    request = EngineRequest(target, chosen, shapes, memory_limit)
    with console.TaskProgress() as progress:
        engine = build_engine(opened, request, progress, console.remark)
    report = engine_report(bundle, engine)
    if as_json:
        console.print_json(report)
    else:
        console.say_lines(engine_text(report))


def engine_report(bundle: Path, engine: Engine) -> dict[str, Any]:
    """What is to be said of an engine."""
    record = engine.record
    return {
        "bundle": str(bundle),
        "engine": str(engine.path),
        "found": engine.found,
        **record.identity.model_dump(),
        "engine_bytes": record.size,
        "constants_bytes": record.constants,
        "build_seconds": record.seconds,
        "build_peak_mb": record.peak_mb,
    }


def engine_text(report: dict[str, Any]) -> str:
    """The same in two lines."""
    made = (
        "it was there"
        if report["found"]
        else f"built in {report['build_seconds']} s, {report['build_peak_mb']} MB of memory"
    )
    sizes = ", ".join(
        f"{axis} {s[0]}" if s[0] == s[-1] else f"{axis} {s[0]} to {s[-1]}"
        for axis, s in report["shapes"].items()
    )
    name = "TensorRT" if report["runtime"] == Runtime.TRT else "TensorRT-RTX"
    if report["target"] == Target.TRT:
        following = f"mpq-sample {report['bundle']} --runtime {report['runtime']} --out grid.png"
    else:
        following = "trtexec or Polygraphy, as docs/tensorrt.md says"
    return (
        f"{report['engine']}: {report['engine_bytes'] / 1e6:.2f} MB for {name} "
        f"{report['tensorrt']}, compute capability {', '.join(report['capabilities'])}, {sizes}; "
        f"{made}.\n"
        f"Next: {following}, on a machine with such a GPU"
    )


def build_where_possible(bundle: Path, target: Target) -> tuple[dict[str, Any] | None, str]:
    """What ``mpq-export --target trt`` does last: the engine, or how to get one elsewhere.

    Returns its report, None where none can be built here, and what is to be said.
    """
    from ..bundle import read_bundle
    from ..runtimes.cuda.gpu import gpu_here
    from ..runtimes.tensorrt.engine_builds import EngineRequest
    from ..runtimes.tensorrt.engine_builds import build as build_engine
    from ..runtimes.tensorrt.installed import usual_runtime

    option = "" if target is Target.TRT else f" --target {target.value}"
    try:
        request = EngineRequest(target, usual_runtime(gpu_here()))
    except RuntimeUnavailable as error:
        return None, (
            f"No engine was built here: {error.why}\n"
            f"The folder is ready for the machine that will run it. Copy it there, and run: "
            f"mpq-build {bundle.name}{option}"
        )
    with console.TaskProgress() as progress:
        engine = build_engine(read_bundle(bundle), request, progress, console.remark)
    report = engine_report(bundle, engine)
    return report, engine_text(report)


def main() -> None:
    """Entry point."""
    console.run(build, EPILOG)


if __name__ == "__main__":
    main()
