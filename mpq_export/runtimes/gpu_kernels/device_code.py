"""Device code that NVRTC makes for a GPU: which NVRTC, for what target, and where it is kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import RuntimeUnavailable
from ..cuda.driver import dotted
from .cache_folder import cache_folder
from .compiled import Kept, failed, named_by_content
from .nvrtc import Nvrtc, NvrtcError
from .sources import kernel_sources

LEAST_NVRTC = (12, 6)
"""Older front ends were never tried."""


@dataclass(frozen=True)
class DeviceCode:
    """The kernels for one kind of GPU.

    Attributes:
        compiler: NVRTC and its version.
        target: ``sm_89``, or ``compute_90`` where the driver compiles for a newer GPU.
        files: cubins or PTX, one for each source file.
    """

    compiler: str
    target: str
    files: tuple[Kept, ...]

    @property
    def is_there(self) -> bool:
        """Whether all has been compiled."""
        return all(kept.is_there for kept in self.files)

    def images(self) -> list[bytes]:
        """What a driver loads, compiled if need be; raises RuntimeUnavailable if it cannot be."""
        return [kept.file().read_bytes() for kept in self.files]


def device_code(
    compilers: Iterable[Nvrtc], capability: tuple[int, int], driver: tuple[int, int]
) -> DeviceCode:
    """The first compiler's that knows the GPU; else PTX of the first that is older than it.

    Args:
        compilers: by preference.
        capability: of the GPU.
        driver: the newest CUDA that the driver runs.

    Raises:
        RuntimeUnavailable: no compiler will do; says why not.
    """
    newer, refused = [], []
    for nvrtc in compilers:
        version = nvrtc.version
        target = _target(nvrtc, capability)
        if version < LEAST_NVRTC:
            refused.append(f"{_name(nvrtc)} is older than {dotted(LEAST_NVRTC)}")
        elif target is None:
            refused.append(f"{_name(nvrtc)} does not know a GPU as old")
        elif target.startswith("sm_") and version[0] <= driver[0]:
            return _code(nvrtc, target)
        elif target.startswith("compute_") and version <= driver:
            newer.append((nvrtc, target))
        else:
            refused.append(f"{_name(nvrtc)} is newer than the driver, which runs {dotted(driver)}")
    if newer:
        return _code(*newer[0])
    raise RuntimeUnavailable(
        "NVRTC cannot compile the GPU kernels",
        why="; ".join(dict.fromkeys(refused)) or "NVRTC was not found",
        fix="Install the NVRTC of torch's CUDA, or one that the driver runs",
    )


def _target(nvrtc: Nvrtc, capability: tuple[int, int]) -> str | None:
    wanted = 10 * capability[0] + capability[1]
    known = [architecture for architecture in nvrtc.architectures if 80 <= architecture <= wanted]
    if wanted in known:
        return f"sm_{wanted}"
    return f"compute_{known[-1]}" if known else None


def _code(nvrtc: Nvrtc, target: str) -> DeviceCode:
    sources, folder = kernel_sources(), cache_folder()
    flags = (sources / "device.flags").read_text(encoding="utf-8").split()
    suffix = ".cubin" if target.startswith("sm_") else ".ptx"
    key = (nvrtc.path, *map(str, nvrtc.version), target)
    saying = (
        f"Compiling the GPU kernels with {_name(nvrtc)} for {target}: once, up to a minute; the "
        f"code is kept in {folder}"
    )
    files = tuple(
        Kept(
            named_by_content(folder, f"{source.stem}-{target}", suffix, sources, *key),
            f"{saying} ({source.stem})",
            partial(_compile, nvrtc, source, flags, target),
        )
        for source in sorted((sources / "src").glob("*.cu"))
    )
    return DeviceCode(_name(nvrtc), target, files)


def _compile(nvrtc: Nvrtc, source: Path, flags: list[str], target: str, made: Path) -> None:
    try:
        made.write_bytes(nvrtc.compile(source, flags, target).image)
    except NvrtcError as error:
        raise failed(source, error.why) from error


def _name(nvrtc: Nvrtc) -> str:
    return f"NVRTC {dotted(nvrtc.version)}"
