"""torch.compile for inference on the CPU."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ...timing.failures import one_line
from ...timing.steps import Step


def compiled(module: nn.Module, tensors: Sequence[torch.Tensor]) -> Step:
    """Compile with weights frozen in; where that fails the step says so and runs eagerly."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    with torch.no_grad():
        try:
            fast = torch.compile(module, dynamic=False)
            fast(*tensors)
            return _step(fast, tensors, "compiled; loading includes it")
        except Exception as error:  # compilers raise anything
            return _step(module, tensors, f"eager, compiling failed: {one_line(error)}")


def _step(
    module: Callable[..., torch.Tensor], tensors: Sequence[torch.Tensor], runs_as: str
) -> Step:
    @torch.no_grad()
    def run() -> torch.Tensor:
        prediction: torch.Tensor = module(*tensors)
        return prediction

    return Step(run, runs_as)
