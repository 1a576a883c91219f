"""Golden cases through a changed copy of a module: an exit code that is not 0 shows a fault.

python -m plugins.kernels.faulty_driver MODULE FILE
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from itertools import chain


def main(name: str, path: str) -> int:
    """Try the copy in the original's place."""
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    from golden.reader import layer_cases

    from .cases import golden, random_case
    from .emulated import emulated_kernels
    from .fake_driver import DriverGpu

    gpu = DriverGpu.of(emulated_kernels())
    cases = chain(map(golden, layer_cases()), map(random_case, range(6)))
    return 0 if all(case.holds(gpu) for case in cases) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
