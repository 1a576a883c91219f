"""Faults planted into copies of the kernels, each of which the emulation must notice.

    python -m plugins.kernels.planted_faults [NAME...]

It prints what gave each fault away; exit code 1 if one was missed. The sources as they are come
first and must give nothing away; a process that ends as no fault makes it end is an error.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGABRT, SIGILL, SIGSEGV

from golden.reader import layer_cases

from .cases import KernelCase, golden, plane_cases, random_case
from .emulated import KERNELS, EmulatedGpu

_TESTS = Path(__file__).parents[2]
_RANDOM_CASES = 160
_SECONDS = 300
_DIFFERS = 3  # exit code of a process that tries a library; an error of Python's is 1


@dataclass(frozen=True)
class Fault:
    """A piece of a source file, found exactly once, and what stands there instead.

    Attributes:
        name: what is wrong with it.
        file: below ``src``.
        found: what stands there.
        planted: what is put there.
        named: how what the emulation says of it must begin; empty where any difference will do.
    """

    name: str
    file: str
    found: str
    planted: str
    named: str = ""

    def plant(self, kernels: Path) -> None:
        """Change the file below a copy of the kernels."""
        path = kernels / "src" / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.found) != 1:
            raise ValueError(f"{self.name}: {text.count(self.found)} places in {self.file}")
        path.write_text(text.replace(self.found, self.planted), encoding="utf-8")


_WAIT = "      wait_for_copies<kStages - 2>();\n"
_BARRIER = "      meet();\n"
_FILL = "      if (block + kStages - 1 < range.end) filler.fill(fill_stage);\n"
_FIRST_PRODUCT = "multiply_add(sums.fragments[fragment][2 * pair], a[fragment], b[0], b[1]);"
_LOAD = "load_matrices(b, row_ + stage_bytes + chunk * kChunk + pair * 16 * kBlockColumns);"
_DIVERGE = "undefined on a GPU: a warp's lanes diverge"
_FMA_FROM = "__fadd_rn(__fmul_rn(__int2float_rn(corrected), scale), bias)"

FAULTS = (
    # Pipeline.
    Fault("loop without its barrier", "gemm.h", _WAIT + _BARRIER, _WAIT),
    Fault("loop without its wait", "gemm.h", _WAIT + _BARRIER, _BARRIER),
    Fault("wait for one copy too few", "gemm.h", "<kStages - 2>()", "<kStages - 1>()"),
    Fault("barrier before the wait", "gemm.h", _WAIT + _BARRIER, _BARRIER + _WAIT),
    Fault("fills before the barrier", "gemm.h", _BARRIER + _FILL, _FILL + _BARRIER),
    Fault("reads the wrong stage", "gemm.h", "read_stage = 0, fill", "read_stage = 1, fill"),
    Fault("fills the stage that is read", "gemm.h", "fill_stage = kStages - 1;",
          "fill_stage = kStages - 2;"),
    Fault("stages wrap too late", "gemm.h", "read_stage == kStages - 1", "read_stage == kStages"),
    Fault("a stage too many for shared memory", "kernels.h", "kStages = 3", "kStages = 4"),
    Fault("prologue without commits", "gemm.h",
          "filler.fill(stage);\n      commit_copies();", "filler.fill(stage);"),
    Fault("chunks looked up too late", "gemm.h", "filler.read_offset(block + kStages)",
          "filler.read_offset(block + kStages - 1)"),
    Fault("weights read beyond the last block", "gemm.h", "% 2 == 1 && block + 1 < range.end)",
          "% 2 == 1)"),
    Fault("weights read again too early", "gemm.h", "if (slice % 2 == 1 &&",
          "if (slice % 2 == 0 &&"),
    # Operands.
    Fault("stage filled without swizzle", "gemm.h", "(chunk ^ (row % 8))", "(chunk)"),
    Fault("stage read without swizzle", "gemm.h", "(chunk_ + 2 * slice) ^ swizzle_",
          "(chunk_ + 2 * slice)"),
    Fault("swizzle of the wrong rows", "gemm.h", "swizzle_ = lane % 8", "swizzle_ = lane / 4"),
    Fault("fragments swapped", "gemm.h", "2 * pair], a[fragment]", "2 * pair], a[1 - fragment]"),
    Fault("halves of B swapped", "gemm.h", "b[2], b[3]", "b[3], b[2]"),
    Fault("halves of B swapped, few pixels", "small.h", "b0, b1);", "b1, b0);"),
    Fault("rows of a fragment's halves swapped", "levels.h", "rows[2 * fragment + 1].weights",
          "rows[2 * fragment].weights"),
    Fault("last rows with codes of the first", "levels.h", "first[group] >> 16",
          "first[group] >> 12"),
    Fault("quarters of a step swapped", "levels.h", "2 * (slice % 2) + sixteen",
          "2 * (slice % 2) + 1 - sixteen"),
    Fault("fourth bit left in the selector", "levels.h", "codes & 0x77777777u", "codes"),
    Fault("fourth plane looked up without signs", "levels.h", "fourth[kGroup], codes)",
          "fourth[kGroup], codes & 0x77777777u)"),
    Fault("summed levels stay unsigned", "levels.h", "kSummed ? sum ^ 0x80808080u : sum", "sum"),
    Fault("fourth quarter of three planes", "levels.h", "words[1] >> 2", "words[1] >> 1"),
    Fault("a plane's step forgotten", "levels.h", "step(1) * 0x01010000u", "step(1) * 0x01000000u"),
    # Columns and pixels.
    Fault("columns beyond the last", "gemm.h", "offset_ == kNoColumn ? 0 : kChunk", "kChunk"),
    Fault("columns beyond the last, few pixels", "small.h",
          "if (chunks_[chunk] == kNoColumn) return 0;",
          "if (chunks_[chunk] == kNoColumn) return 0x01010101;"),
    Fault("warps of one tile have the same pixels", "gemm.h",
          "warp_pixel = warp / kTiles * kWarpPixels", "warp_pixel = 0"),
    Fault("pixels beyond the last", "gemm.h", "min(pixel, p.pixels - 1)", "pixel"),
    Fault("outputs beyond the last", "epilogue.h", "pixel_ < p.pixels", "pixel_ <= p.pixels"),
    Fault("padding rows stored", "epilogue.h", "row.place < 0 || ", ""),
    Fault("groups read the first one's channels", "gemm.h",
          "base_(p.activations + group * p.group_bytes)", "base_(p.activations)"),
    Fault("stride across swapped", "pixels.h", "y * p.layer.strides[0]", "y * p.layer.strides[1]"),
    Fault("dilation forgotten", "quantize.cu", "y * p.layer.dilations[0]", "y"),
    Fault("images of a batch mixed up", "epilogue.h", "image * p.layer.rows", "image * p.pixels"),
    Fault("pairs of odd rows of pixels", "problem.cpp", "problem.image_pixels % 2 == 0", "true"),
    Fault("pairs of pixels far from one another", "problem.cpp",
          "paired = !problem.channels_adjacent && ", "paired = "),
    Fault("pairs at any address", "problem.cpp",
          "reinterpret_cast<uintptr_t>(call.y) % pair_bytes == 0", "pair_bytes > 0"),
    Fault("second of a pair takes the first's residual", "epilogue.h", "place + 1)", "place)"),
    Fault("cursor stays in its image", "epilogue.h", "within_ >= p", "within_ > p"),
    # Activations.
    Fault("pixels of a convolution line by line", "quantize.cu",
          "adjacent ? line : place, adjacent", "line, adjacent"),
    Fault("channels that come last, as if first", "quantize.cu",
          "begin + place * p.layer.channels, 1", "begin + place, image_plane"),
    Fault("padding one pixel off", "quantize.cu", "column - p.layer.pads[1]",
          "column - p.layer.pads[1] + 1"),
    Fault("padding of the wrong side", "quantize.cu", "- p.layer.pads[0]", "- p.layer.pads[2]"),
    Fault("padding of code 0", "quantize.cu", "int32_t code = zero_point;", "int32_t code = 0;"),
    Fault("row beyond the image", "quantize.cu", "y < p.call.height", "y <= p.call.height"),
    Fault("padding channels hold a code", "quantize.cu", "uint32_t words[4] = {};",
          "uint32_t words[4] = {0x01010101, 0x01010101, 0x01010101, 0x01010101};"),
    Fault("offset form without -128", "quantize.cu", "code * power - 128", "code * power"),
    Fault("shift forgotten", "quantize.cu", "int32_t{1} << p.layer.input_shift[channel + i]",
          "1"),
    Fault("reciprocal for division", "quantize.cu",
          "__fdiv_rn(__fmul_rn(x, factor), quantizer.scale)",
          "__fmul_rn(__fmul_rn(x, factor), __fdiv_rn(1.0f, quantizer.scale))"),
    Fault("halves rounded away from zero", "quantize.cu", "rintf(", "roundf("),
    Fault("not a number clamped to the top", "quantize.cu",
          "fminf(fmaxf(shifted, 0.0f), quantizer.top)",
          "fmaxf(fminf(shifted, quantizer.top), 0.0f)"),
    # Epilogue.
    Fault("offset form uncorrected", "epilogue.h", "128u * sum - zero_point", "0u - zero_point"),
    Fault("zero point uncorrected", "epilogue.h", " - zero_point * shifted", ""),
    Fault("fused multiply-add", "epilogue.h", _FMA_FROM,
          "std::fma(__int2float_rn(corrected), scale, bias)"),
    Fault("first step for all", "epilogue.h", "p.layer.act_scale[step_index]",
          "p.layer.act_scale[0]"),
    Fault("residual added before rounding", "epilogue.h", "__fadd_rn(widen(stored),",
          "__fadd_rn(y,"),
    # Several thread blocks or warps for one output.
    Fault("tickets not cleared", "quantize.cu", "p.tickets[i] = 0", "p.tickets[i] += 0"),
    Fault("tickets left drawn", "splits.h", "p.tickets[output] = 0", "p.tickets[output] += 0"),
    Fault("own sums counted twice", "splits.h", "if (other == split) continue;", ""),
    Fault("first split taken for the last", "splits.h", "(p.cut.splits) - 1)", "(0))"),
    Fault("ticket read before it is drawn", "splits.h",
          "  }\n  meet();\n  if (*ticket", "  }\n  if (*ticket"),
    Fault("ranges overlap", "splits.h", "(split + 1) / p.cut.splits",
          "(split + 1) / p.cut.splits + 1"),
    Fault("warps added up before they are done", "small.h",
          "  meet();\n  int32_t own", "  int32_t own"),
    Fault("ticket drawn before all sums are there", "splits.h",
          "  meet();\n  if (threadIdx", "  if (threadIdx"),
    # Lanes of a warp that do the right thing, not together.
    Fault("a product in either branch", "gemm.h", _FIRST_PRODUCT,
          f"if (threadIdx.x % 2) {{\n  {_FIRST_PRODUCT}\n}} else {{\n  {_FIRST_PRODUCT}\n}}",
          named=_DIVERGE),
    Fault("operands loaded in either branch", "gemm.h", _LOAD,
          f"if (threadIdx.x % 2) {{\n  {_LOAD}\n}} else {{\n  {_LOAD}\n}}", named=_DIVERGE),
    Fault("a barrier in either branch", "gemm.h", _BARRIER,
          f"if (threadIdx.x % 2) {{\n{_BARRIER}}} else {{\n{_BARRIER}}}\n", named=_DIVERGE),
    Fault("lanes in variants of their own", "levels.h", "enter_variant(kMost);",
          "enter_variant(kMost + threadIdx.x % 2 * 100);", named=_DIVERGE),
    Fault("lanes take other planes", "gemm.h", "with_planes<0, kWidest>(planes,",
          "with_planes<0, kWidest>(planes - (planes == 3 && threadIdx.x % 2),", named=_DIVERGE),
)  # fmt: skip


def detecting_cases() -> Iterator[KernelCase]:
    """What the kernels are tried on, until one case gives the fault away."""
    yield from map(golden, layer_cases())
    yield from map(random_case, range(_RANDOM_CASES))
    for planes in range(1, 9):
        yield from plane_cases(planes)


def first_difference(library: Path) -> str | None:
    """The first case in which a library is wrong; the process may end on the way."""
    gpu = EmulatedGpu.of(library)
    for case in detecting_cases():
        if not case.holds(gpu):
            return case.case.name
    return None


_NAMED = "undefined on a GPU: "  # what the emulation says before it aborts


class HarnessError(Exception):
    """A library could not be tried: this says nothing of the fault in it."""


def what_gives_away(fault: Fault | None) -> str | None:
    """How a fault, or the sources as they are, shows; None if it does not."""
    with tempfile.TemporaryDirectory() as folder:
        kernels = Path(folder) / "kernels"
        shutil.copytree(KERNELS, kernels)
        if fault is not None:
            fault.plant(kernels)
        library = Path(folder) / "faulty.so"
        build = [kernels / "emulation" / "build.sh", library]
        subprocess.run(build, check=True, capture_output=True)
        return try_library(library)


def try_library(library: Path, seconds: float = _SECONDS) -> str | None:
    """What a process of its own finds wrong with a library; None if nothing.

    Raises:
        HarnessError: it ended in a way that is no fault's.
    """
    command = [
        sys.executable,
        "-m",
        "plugins.kernels.planted_faults",
        "--try",
        str(library.resolve()),
    ]
    try:
        tried = subprocess.run(command, cwd=_TESTS, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"a hang: not done after {seconds:g} s"
    return verdict(tried.returncode, tried.stdout, tried.stderr)


def verdict(code: int, out: str, err: str) -> str | None:
    """What the exit code and the output of a process that tried a library say of the library.

    Raises:
        HarnessError: they are no fault's.
    """
    if code == 0:
        return None
    if code == _DIFFERS:
        return f"{out.strip()} differs"
    if code == -SIGABRT:
        named = [line for line in err.splitlines() if line.startswith(_NAMED)]
        if named:
            return named[0]
    if code == -SIGSEGV:
        return "an access outside of its buffer"
    if code == -SIGILL:
        return "a trap of C++"
    raise HarnessError(f"exit code {code}: {(out + err).strip()}")


def main(arguments: list[str]) -> int:
    """Try the named faults, or all; or one library, for which this is the process."""
    if arguments[:1] == ["--try"]:
        difference = first_difference(Path(arguments[1]))
        if difference is not None:
            print(difference)
        return 0 if difference is None else _DIFFERS
    if (wrong := what_gives_away(None)) is not None:
        raise HarnessError(f"without a fault: {wrong}")
    missed = []
    for fault in FAULTS:
        if arguments and fault.name not in arguments:
            continue
        found = what_gives_away(fault)
        noticed = found is not None and found.startswith(fault.named)
        print(f"{fault.name:40} {'' if noticed else 'MISSED: '}{found}", flush=True)
        if not noticed:
            missed.append(fault.name)
    print(f"{len(missed)} of {len(arguments or FAULTS)} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
