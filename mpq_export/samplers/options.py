"""Types of what a scheduler config says, whoever steps by it.

A config comes with a bundle, a checkpoint or a reference. Diffusers takes any value and fails at
the step that uses it, so types are looked at beforehand; which values one follows, it knows itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_SHOWN = 60


class _Options(BaseModel):
    """Options that several of diffusers' schedulers share, by its names; null is no option."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    class_name: str | None = Field(None, alias="_class_name")
    num_train_timesteps: int | None = None
    beta_start: float | None = None
    beta_end: float | None = None
    beta_schedule: str | None = None
    trained_betas: list[float] | None = None
    prediction_type: str | None = None
    timestep_spacing: str | None = None
    timestep_type: str | None = None
    interpolation_type: str | None = None
    steps_offset: int | None = None
    rescale_betas_zero_snr: bool | None = None
    clip_sample: bool | None = None
    clip_sample_range: float | None = None
    set_alpha_to_one: bool | None = None
    thresholding: bool | None = None
    dynamic_thresholding_ratio: float | None = None
    sample_max_value: float | None = None
    variance_type: str | None = None
    solver_order: int | None = None
    solver_type: str | None = None
    algorithm_type: str | None = None
    lower_order_final: bool | None = None
    euler_at_final: bool | None = None
    final_sigmas_type: str | None = None
    use_karras_sigmas: bool | None = None
    use_exponential_sigmas: bool | None = None
    use_beta_sigmas: bool | None = None
    use_flow_sigmas: bool | None = None
    use_lu_lambdas: bool | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    lambda_min_clipped: float | None = None


@dataclass(frozen=True)
class Fault:
    """An option of a wrong type, and why that is wrong, in words."""

    option: str
    why: str


def wrong_type(config: Mapping[str, Any]) -> Fault | None:
    """The first option of a scheduler config whose type no scheduler takes; None: there is none."""
    try:
        _Options.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"])
        return Fault(option, f"It is {str(first['input'])[:_SHOWN]!r}: {first['msg']}")
    return None
