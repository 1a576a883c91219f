"""Where an update's time goes."""

import fixtures
import pytest

from mpq_export.evaluation.training_profile import markdown, profiled_training, shares


def test_shares_add_up_and_leave_nothing_out():
    times = {"aten::mm": 1.0, "_ActivationIntegers": 0.5, "aten::add": 9.0, "total": 4.0}
    parts = shares(times)
    assert sum(parts.values()) == pytest.approx(1)
    assert parts["activations to integers"] == 0.125
    assert parts["the rest"] == pytest.approx(2.5 / 4)


def test_a_training_run_is_profiled_and_nothing_else(pipeline_folder):
    report = profiled_training(pipeline_folder, "mpq-dmv2", fixtures.BITS, 2, 0)
    parts = report["shares"]
    assert sum(parts.values()) == pytest.approx(1)
    assert all(share > 0 for name, share in parts.items()), parts
    forward = ("activations to integers", "weights to integers", "epilogues")
    assert report["quantiser_forward"] == pytest.approx(sum(parts[name] for name in forward))
    assert markdown(report).count("%") == len(parts) + 1
