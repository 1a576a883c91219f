"""A short training run, and watching it from outside."""

import time

WEIGHTS, UPDATES = "weights.safetensors", 10
RECIPE = {
    "method": "mpq-dmv2", "bits": "w3a4", "weight_form": "uniform", "allocation": "equal",
    "calibration_images": 4,
    "training": {"updates": UPDATES, "groups": 2, "images_per_group": 1, "rank": 4},
}  # fmt: skip


def wait_for_updates(process, out):
    """Until the training run of ``out`` has been saved."""
    state = out.with_name(f"{out.name}.training") / "state.safetensors"
    while process.poll() is None and not state.exists():
        time.sleep(0.01)
    assert process.poll() is None, process.stderr.read()
    return state
