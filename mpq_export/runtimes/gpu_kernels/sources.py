"""Where the kernels' sources lie: in a checkout, or in the installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ...errors import RuntimeUnavailable

_CHECKOUT = Path(__file__).parents[3] / "plugins" / "kernels"
_INSTALLED = "mpq_export/kernels"


def in_checkout() -> bool:
    """Whether this is a checkout, whose sources may be newer than what was installed of it."""
    return (_CHECKOUT / "build.sh").is_file()


def kernel_sources() -> Path:
    """The folder of ``build.sh``.

    Raises:
        RuntimeUnavailable: it is in neither.
    """
    if in_checkout():
        return _CHECKOUT
    try:
        installed = Path(str(distribution("mpq-export").locate_file(_INSTALLED)))
    except PackageNotFoundError:
        installed = _CHECKOUT
    if not (installed / "build.sh").is_file():
        raise RuntimeUnavailable("The GPU kernels' sources are not installed", where=installed)
    return installed
