"""The whole forecast, and how it reads."""

import re

import fixtures
import pytest
import torch

from mpq_export.architectures import architecture_of
from mpq_export.checkpoints import load_checkpoint
from mpq_export.core.bit_allocation import Allocation
from mpq_export.core.weight_form import WeightForm
from mpq_export.forecast import speed
from mpq_export.forecast.cost import Span
from mpq_export.forecast.export import forecast_export
from mpq_export.forecast.speed import measure_speed
from mpq_export.forecast.text import _time_text, bytes_text, forecast_text, totals_text
from mpq_export.methods import recipe_of
from mpq_export.methods.plan import LayerChoices, plan_layers
from mpq_export.precision import BitSpec


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(speed, "_LEAST_SECONDS", 0.005)


@pytest.fixture
def made(pipeline_folder):
    """Forecasts of the tiny model on the meta device, by number of steps."""
    checkpoint = load_checkpoint(pipeline_folder)
    model = checkpoint.model.to("meta")
    recipe = recipe_of("mpq-dmv2")
    architecture = architecture_of(checkpoint.model_config)
    plan = plan_layers(model, architecture, BitSpec(3, 4), recipe)

    def make(steps, recipe=recipe):
        return forecast_export(
            model, checkpoint.model_config, checkpoint.scheduler_config, plan, recipe, steps
        )

    return make


def test_every_layer_is_in_the_text_with_its_bits_and_bytes(made):
    forecast = made(fixtures.NUM_STEPS)
    text = forecast_text(forecast)
    for layer in forecast.size.layers:
        pattern = rf"^{re.escape(layer.name)} +{layer.kind} +{layer.weights:,} +{layer.bits} +"
        assert re.search(pattern + f"{layer.bytes:,}", text, re.MULTILINE), layer.name
    assert re.search(r"^conv_in .* first convolution$", text, re.MULTILINE)
    assert re.search(r"^conv_norm_out +normalisation$", text, re.MULTILINE)
    assert "peak memory about" in text
    assert "700 updates of 32 images about" in text
    assert bytes_text(forecast.size.packed_bytes) in text


def test_more_steps_take_longer(made):
    short, long = made(2).cost, made(40).cost
    assert long.calibrate_seconds.high > 4 * short.calibrate_seconds.high
    assert long.peak_bytes > short.peak_bytes
    assert short.macs_per_image == long.macs_per_image > 1_000_000


def test_a_model_that_needs_its_values_has_sizes_and_says_why_no_times(made, monkeypatch):
    from mpq_export.forecast import cost

    def refuse(*_):
        raise RuntimeError("value wanted\nat length")

    monkeypatch.setattr(cost, "count_work", refuse)
    forecast = made(fixtures.NUM_STEPS)
    assert forecast.cost is None
    assert forecast.training is None
    assert "not known: RuntimeError: value wanted." in totals_text(forecast)
    assert forecast.size.packed_bytes > 0


def test_the_fit_is_measured_as_it_will_run():
    uniform, residual = (
        LayerChoices(BitSpec(4, 8), form, allocation, False)
        for form, allocation in (
            (WeightForm.UNIFORM, Allocation.EQUAL),
            (WeightForm.RESIDUAL, Allocation.KURTOSIS),
        )
    )
    measured = measure_speed([uniform, residual, residual])
    assert set(measured.fits) == {uniform, residual}
    for fit in measured.fits.values():  # how long they take is the machine's own affair
        assert 0 < fit.seconds(100_000, 100) <= fit.seconds(200_000, 400)
    assert measured.per_mac > 0
    assert torch.is_grad_enabled()


def test_spans_hold_their_middle():
    span = Span.about(10)
    assert span.low < 10 < span.high


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (Span(0.42, 1.04), "about 0.42 to 1 s"),
        (Span(46, 118), "about 46 to 120 s"),
        (Span(60, 150), "about 1 to 2.5 min"),
        (Span(9e5, 4e6), "about 250 to 1,100 h"),
    ],
)
def test_times_are_read_without_powers(seconds, words):
    assert _time_text(seconds) == words


@pytest.mark.parametrize(
    ("count", "text"),
    [(7, "7 bytes"), (1500, "1.5 kB"), (867_569, "868 kB"), (3.44e9, "3.44 GB")],
)
def test_bytes_have_units(count, text):
    assert bytes_text(count) == text


def test_what_is_not_trained_has_no_forecast_of_training(made):
    forecast = made(fixtures.NUM_STEPS, recipe_of("mpq-dmv2").trained_for(0))
    assert forecast.cost is not None
    assert forecast.training is None
    assert "updates" not in totals_text(forecast)
