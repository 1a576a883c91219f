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
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import toolchain

HERE = Path(__file__).parent
ARCHITECTURES = (80, 86, 87, 89, 90, 110, 120)
# What is no arithmetic: products, memory, control.
_OTHERS = (
    "IMMA", "LDSM", "LDG", "LDGSTS", "LDS", "STS", "LDC", "LDCU", "BAR", "BRA", "BSSY", "BSYNC",
    "BREAK", "WARPSYNC", "LDGDEPBAR", "DEPBAR", "NOP", "CALL", "RET", "EXIT", "CS2R",
)  # fmt: skip


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


def missing_tool() -> str | None:
    """Why nothing can be compiled and read here, if so."""
    if toolchain.program("nvcc") is None:
        return "there is no nvcc (make gpu-tools)"
    if toolchain.program("nvdisasm") is None:
        return "there is no nvdisasm (pip install nvidia-cuda-nvdisasm)"
    return None


def measure(architecture: int) -> list[LoopFigures]:
    """Compile for one architecture and read what came out."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "multiply.cubin"
        flags = (HERE / "device.flags").read_text(encoding="utf-8").split()
        log = _output(
            "nvcc", *flags, f"-arch=sm_{architecture}", "-cubin", "-Xptxas", "-v",
            "-o", cubin, HERE / "src" / "multiply.cu",
        )  # fmt: skip
        return figures(architecture, log, cubin)


def figures(architecture: int, log: str, cubin: Path) -> list[LoopFigures]:
    """What a cubin of multiply.cu holds; ``log`` is what ptxas said of it, verbosely."""
    listing = _output("nvdisasm", "-c", cubin)
    found = _figures(architecture, listing, dict(_resources(log)))
    return sorted(found, key=lambda figures: figures.key)


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


def _figures(
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


def _product_loops(lines: Iterable[str]) -> Iterator[Counter[str]]:
    """Of each innermost loop with products, how often each instruction stands in it."""
    labels: dict[str, int] = {}
    found: list[str] = []
    for line in lines:
        if label := re.match(r"(\.L_\w+):", line):
            labels[label[1]] = len(found)
        elif instruction := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?(\w+)([^;]*);", line):
            found.append(instruction[1])
            target = re.search(r"\((\.L_\w+)\)", instruction[2])
            if instruction[1] == "BRA" and target and target[1] in labels:
                loop = Counter(found[labels[target[1]] :])
                if loop["IMMA"]:
                    yield loop


# --- the table ----------------------------------------------------------------------------------

_TITLES = (
    "sm", "kernel", "planes", "registers", "spilled bytes", "mma", "integer per mma",
    "issued per mma",
)  # fmt: skip


def table(rows: Iterable[LoopFigures], compiler: str) -> str:
    """The committed form of figures."""
    lines = [" | ".join(_TITLES), "|".join("---" for _ in _TITLES)]
    lines += [" | ".join(str(value) for value in astuple(row)) for row in rows]
    body = "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)
    return (
        "# What the compiler makes of the GPU kernels\n\n"
        f"Made by `make kernel-table` with {compiler}. Instructions of the loop over blocks of\n"
        "128 columns, by the planes of a tile; registers and spilled bytes are of whole kernels.\n"
        f"\n{body}\n"
    )


def read_table(text: str) -> list[LoopFigures]:
    """The inverse of :func:`table`."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    kinds = (int, str, int, int, int, int, float, float)
    assert len(kinds) == len(fields(LoopFigures))
    return [
        LoopFigures(*(kind(cell) for kind, cell in zip(kinds, row, strict=True)))
        for row in rows[1:]
    ]


def main(arguments: list[str]) -> None:
    """Write the table of the architectures."""
    if reason := missing_tool():
        sys.exit(f"nothing is measured: {reason}")
    rows = [row for sm in map(int, arguments[1:] or ARCHITECTURES) for row in measure(sm)]
    release = re.search(r"V([\d.]+)", _output("nvcc", "--version"))
    text = table(rows, f"nvcc {release[1] if release else 'of unknown version'}")
    Path(arguments[0]).write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
