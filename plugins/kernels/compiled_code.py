"""What the compiler makes of the kernels: registers, spills, and instructions of the inner loops.

    python plugins/kernels/compiled_code.py TABLE [ARCHITECTURE...]

compiles the kernels with nvcc for the architectures (all that are supported), writes the table and
prints it. Tests compare fresh figures with the committed table, docs/results/kernel_table.md, so
that a compiler or a change that doubles the unpacking is seen without a GPU.

nvcc says how many registers a kernel has; loops are read with nvdisasm. Where a machine has
neither, `make gpu-tools` and the extra "dev" bring them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import toolchain

HERE = Path(__file__).parent
ARCHITECTURES = (80, 86, 87, 89, 90, 110, 120)
# What is no arithmetic: products, memory, control.
_OTHERS = (
    "IMMA", "LDSM", "LDG", "LDGSTS", "LDS", "STS", "LDC", "LDCU", "BAR", "BRA", "BSSY", "BSYNC",
    "BREAK", "WARPSYNC", "LDGDEPBAR", "DEPBAR", "NOP", "CALL", "RET", "EXIT", "CS2R",
)  # fmt: skip
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?(\w+)([^;]*);")


@dataclass(frozen=True)
class LoopFigures:
    """The inner loop of one kernel for tiles of one plane count, on one architecture.

    Attributes:
        architecture: 87 for sm_87.
        kernel: its name.
        planes: P.
        registers: of a thread, of the whole kernel.
        spilled: bytes of stack and of spills of a thread, of the whole kernel.
        products: mma instructions of a block of columns.
        integer_per_product: arithmetic instructions per mma.
        issued_per_product: all instructions per mma.
    """

    architecture: int
    kernel: str
    planes: int
    registers: int
    spilled: int
    products: int
    integer_per_product: float
    issued_per_product: float

    @property
    def key(self) -> tuple[int, str, int]:
        """What the figures are of."""
        return self.architecture, self.kernel, self.planes


@dataclass(frozen=True)
class StraightFigures:
    """A kernel of the first launch, which has no loop worth the name, on one architecture.

    Attributes:
        architecture: 87 for sm_87.
        kernel: its name.
        registers: of a thread.
        spilled: bytes of stack and of spills of a thread.
        instructions: all that it has, padding left out.
    """

    architecture: int
    kernel: str
    registers: int
    spilled: int
    instructions: int

    @property
    def key(self) -> tuple[int, str]:
        """What the figures are of."""
        return self.architecture, self.kernel


@dataclass(frozen=True)
class Figures:
    """Of all kernels.

    Attributes:
        loops: of the second launch's, ordered.
        straight: of the first launch's, ordered.
    """

    loops: list[LoopFigures]
    straight: list[StraightFigures]


def missing_tool() -> str | None:
    """Why nothing can be compiled and read here, if so."""
    if toolchain.program("nvcc") is None:
        return "there is no nvcc (make gpu-tools)"
    if toolchain.program("nvdisasm") is None:
        return "there is no nvdisasm (pip install nvidia-cuda-nvdisasm)"
    return None


def measure(architectures: Iterable[int]) -> Figures:
    """Compile for each architecture and read what came out."""
    loops, straight = [], []
    with tempfile.TemporaryDirectory() as folder:
        for architecture in architectures:
            for name in ("multiply", "quantize"):
                cubin = Path(folder) / f"{name}.cubin"
                log = _compile(architecture, HERE / "src" / f"{name}.cu", cubin)
                if name == "multiply":
                    loops += loop_figures(architecture, log, cubin)
                else:
                    straight += straight_figures(architecture, log, cubin)
    return Figures(loops, straight)


def _compile(architecture: int, source: Path, cubin: Path) -> str:
    """What ptxas says, verbosely."""
    flags = (HERE / "device.flags").read_text(encoding="utf-8").split()
    return _output(
        "nvcc", *flags, f"-arch=sm_{architecture}", "-cubin", "-Xptxas", "-v", "-o", cubin, source
    )


def loop_figures(architecture: int, log: str, cubin: Path) -> list[LoopFigures]:
    """What a cubin of multiply.cu holds; ``log`` is what ptxas said of it, verbosely."""
    found = _loop_figures(architecture, _listing(cubin), dict(_resources(log)))
    return sorted(found, key=lambda figures: figures.key)


def straight_figures(architecture: int, log: str, cubin: Path) -> list[StraightFigures]:
    """What a cubin of quantize.cu holds; ``log`` is what ptxas said of it, verbosely."""
    resources = dict(_resources(log))
    found = [
        StraightFigures(architecture, kernel, *resources[kernel], _count(lines))
        for kernel, lines in _functions(_listing(cubin))
    ]
    return sorted(found, key=lambda figures: figures.key)


def _listing(cubin: Path) -> str:
    return _output("nvdisasm", "-c", cubin)


def _output(name: str, *arguments: object) -> str:
    command = [str(argument) for argument in (toolchain.program(name), *arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed: {done.stderr}")
    return done.stdout + done.stderr


def _resources(log: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Of each function: registers, and bytes of stack, spill stores and spill loads."""
    pattern = re.compile(
        r"Function properties for (\S+)\s+(?:ptxas\s+\.\s+)?(\d+) bytes stack frame, "
        r"(\d+) bytes spill stores, "
        r"(\d+) bytes spill loads\s+.*?Used (\d+) registers"
    )
    for name, stack, stores, loads, registers in pattern.findall(log):
        yield name, (int(registers), int(stack) + int(stores) + int(loads))


def _loop_figures(
    architecture: int, listing: str, resources: dict[str, tuple[int, int]]
) -> Iterator[LoopFigures]:
    for function, instructions in _functions(listing):
        # Tiles of more planes read more words; nothing else in the loops differs by loads.
        loops = sorted(_product_loops(instructions), key=lambda loop: loop["LDG"])
        registers, spilled = resources[function]
        for planes, loop in enumerate(loops, start=1):
            products, issued = loop["IMMA"], sum(loop.values())
            integer = issued - sum(loop[name] for name in _OTHERS)
            yield LoopFigures(
                architecture, function, planes, registers, spilled, products,
                round(integer / products, 2), round(issued / products, 2),
            )  # fmt: skip


def _functions(listing: str) -> Iterator[tuple[str, list[str]]]:
    """Functions by name, with their lines of labels and instructions."""
    parts = re.split(r"^\s*\.section\s+\.text\.(\S+?),.*$", listing, flags=re.MULTILINE)
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        yield name, body.splitlines()


def _count(lines: Iterable[str]) -> int:
    found = [match[1] for line in lines if (match := _INSTRUCTION.match(line))]
    return sum(name != "NOP" for name in found)


def _product_loops(lines: Iterable[str]) -> Iterator[Counter[str]]:
    """Of each innermost loop with products, how often each instruction stands in it."""
    labels: dict[str, int] = {}
    found: list[str] = []
    for line in lines:
        if label := re.match(r"(\.L_\w+):", line):
            labels[label[1]] = len(found)
        elif instruction := _INSTRUCTION.match(line):
            found.append(instruction[1])
            target = re.search(r"\((\.L_\w+)\)", instruction[2])
            if instruction[1] == "BRA" and target and target[1] in labels:
                loop = Counter(found[labels[target[1]] :])
                if loop["IMMA"]:
                    yield loop


# --- the table ----------------------------------------------------------------------------------

_LOOP_TITLES = (
    "sm", "kernel", "planes", "registers", "spilled bytes", "mma", "integer per mma",
    "issued per mma",
)  # fmt: skip
_STRAIGHT_TITLES = ("sm", "kernel", "registers", "spilled bytes", "instructions")


def table(figures: Figures, compiler: str) -> str:
    """The committed form of figures."""
    return (
        "# What the compiler makes of the GPU kernels\n\n"
        f"Made by `make kernel-table` with {compiler}. Instructions of the loop over blocks of\n"
        "128 columns, by the planes of a tile; registers and spilled bytes are of whole kernels.\n"
        f"\n{_rows(_LOOP_TITLES, figures.loops)}\n"
        "\nThe first launch's kernels, whole:\n"
        f"\n{_rows(_STRAIGHT_TITLES, figures.straight)}\n"
    )


def _rows(titles: Sequence[str], figures: Iterable[LoopFigures | StraightFigures]) -> str:
    lines = [titles, *(map(str, astuple(one)) for one in figures)]
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, f"|{'|'.join(['---'] * len(titles))}|", *body])


def read_table(text: str) -> Figures:
    """The inverse of :func:`table`."""
    loops, straight = [], []
    for line in text.splitlines():
        cells = line.strip("| ").split(" | ")
        if line.startswith("|") and cells[0].isdecimal():
            if len(cells) == len(_LOOP_TITLES):
                kinds = (int, str, int, int, int, int, float, float)
                loops.append(LoopFigures(*_typed(kinds, cells)))
            else:
                straight.append(StraightFigures(*_typed((int, str, int, int, int), cells)))
    return Figures(loops, straight)


def _typed(kinds: Iterable[type], cells: Iterable[str]) -> list[Any]:
    return [kind(cell) for kind, cell in zip(kinds, cells, strict=True)]


def main(arguments: list[str]) -> None:
    """Write the table of the architectures."""
    if reason := missing_tool():
        sys.exit(f"nothing is measured: {reason}")
    figures = measure(map(int, arguments[1:] or ARCHITECTURES))
    release = re.search(r"V([\d.]+)", _output("nvcc", "--version"))
    text = table(figures, f"nvcc {release[1] if release else 'of unknown version'}")
    Path(arguments[0]).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
