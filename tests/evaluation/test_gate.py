"""Limits on what images may lose, and the layer that is to blame."""

import json
import math
from dataclasses import replace

import fixtures
import numpy as np
import pytest
from mpq_export.pipelines.judge import ClassifierJudge
from mpq_export.pipelines.registry import DrawRequest

from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.cli.check import _finite, _share, _share_of_all
from mpq_export.errors import RecipeError
from mpq_export.evaluation import gate
from mpq_export.evaluation.check import check_bundle
from mpq_export.evaluation.frechet import FeatureStatistics
from mpq_export.evaluation.gate import (
    MOST_IMAGES,
    GateDrawing,
    Limits,
    draw_reference,
    pass_through_gate,
    psnr,
    require_answerable,
)
from mpq_export.evaluation.gate_report import with_scaled_layer
from mpq_export.evaluation.reference import (
    DrawnBy,
    ReferenceFileError,
    read_reference,
    write_reference,
)
from mpq_export.lowering.names import Target
from mpq_export.runtimes.names import Runtime

BROKEN = "conv_out"
SILENT = fixtures.SilentProgress()
LIMITS = Limits(frechet_increase=0.1, psnr=30.0, accuracy_drop=0.9)


class Halves:
    """Features are the mean brightness of left and right; the class says which is brighter."""

    num_classes = 10

    def state_dict(self):
        return {}

    def features(self, images):
        return images.unflatten(-1, (2, -1)).mean((1, 2, 4))

    def __call__(self, images):
        import torch

        left, right = self.features(images).unbind(1)
        return torch.stack([left, right], 1)


@pytest.fixture(autouse=True)
def judged(monkeypatch):
    import torch

    data = torch.rand((30, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    judge = ClassifierJudge(Halves(), data)
    monkeypatch.setattr(gate, "judge_of", lambda _bundle: judge)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """It predicts velocities: untrained predictions of noise draw images that are all clipped."""
    model = fixtures.tiny_unet(channels=1, classes=10)
    folder = fixtures.save_pipeline(tmp_path_factory.mktemp("p"), model, "DigitsPipeline")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "v_prediction"}))
    return folder


@pytest.fixture(scope="module")
def original(pipeline):
    return load_checkpoint(pipeline)


@pytest.fixture(scope="module")
def sound(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "b"
    return read_bundle(fixtures.quantized_bundle(pipeline, folder, "rtn", "w8a8", (Target.ORT,)))


@pytest.fixture(scope="module")
def broken(sound, tmp_path_factory):
    return with_scaled_layer(sound, BROKEN, 1.5, tmp_path_factory.mktemp("broken") / "b")


@pytest.fixture
def reference(sound, original):
    return draw_reference(sound, original, DrawRequest(20, 3, 0), SILENT)


def test_a_sound_bundle_passes_and_a_broken_one_does_not(sound, broken, reference, tmp_path):
    """One layer's scales are 1.5 times as large and the hashes are right."""
    write_reference(tmp_path / "r", reference)
    kept = read_reference(tmp_path / "r")
    passed = pass_through_gate(sound, Runtime.ORT, kept, LIMITS, SILENT)
    failed = pass_through_gate(read_bundle(broken.path), Runtime.ORT, kept, LIMITS, SILENT)
    assert passed.passed, passed
    assert [verdict.name for verdict in passed.verdicts] == [
        "frechet_increase", "psnr", "accuracy_drop",
    ]  # fmt: skip
    assert not failed.passed
    by_name = {verdict.name: verdict for verdict in failed.verdicts}
    assert not by_name["psnr"].passed
    assert by_name["psnr"].measured < passed.verdicts[1].measured - 6
    assert "at least 30" in by_name["psnr"].detail
    assert passed.drawn == GateDrawing("DDIMScheduler", 3, 0, 20)


def test_a_verdict_says_how_many_images_it_is_of(sound, reference, monkeypatch):
    """A reference keeps the first images alone, and PSNR is of those."""
    monkeypatch.setattr(gate, "SHOWN", 8)
    limits = Limits(frechet_increase=9.0, psnr=1.0, accuracy_drop=0.9)
    report = pass_through_gate(sound, Runtime.ORT, reference, limits, SILENT)
    assert [verdict.images for verdict in report.verdicts] == [20, 8, 20]
    assert report.drawn.images == 20


def test_a_limit_within_its_interval_is_undecided_and_decides_by_its_figure(sound, reference):
    def verdicts(**limits):
        report = pass_through_gate(sound, Runtime.ORT, reference, Limits(**limits), SILENT)
        return report.passed, report.verdicts

    _, (rise, ratio) = verdicts(frechet_increase=0.1, psnr=30.0)
    for verdict in (rise, ratio):
        low, high = verdict.interval
        assert low < verdict.measured < high
        assert "95 %" in verdict.detail
        assert verdict.undecided == (low <= verdict.limit <= high)
    low, high = rise.interval
    passed, (inside,) = verdicts(frechet_increase=(rise.measured + high) / 2)
    assert passed
    assert inside.undecided
    assert "undecided at 20 images" in inside.detail
    passed, (inside,) = verdicts(frechet_increase=(rise.measured + low) / 2)
    assert not passed
    assert inside.undecided
    passed, (above,) = verdicts(frechet_increase=high + 0.01)
    assert passed
    assert not above.undecided
    assert "undecided" not in above.detail


def test_a_former_reference_has_no_interval_and_says_so(sound, reference):
    former = replace(reference, blocks=None)
    limits = Limits(frechet_increase=0.1)
    report = pass_through_gate(sound, Runtime.ORT, former, limits, SILENT)
    assert report.verdicts[0].interval is None
    assert "made by a former version" in report.note
    shifted = replace(reference.blocks, counts=np.roll(reference.blocks.counts, 1))
    with pytest.raises(ReferenceFileError, match="blocks are of other images"):
        pass_through_gate(sound, Runtime.ORT, replace(reference, blocks=shifted), limits, SILENT)


def test_the_broken_layer_is_named_first(sound, broken, original):
    """Of nodes all is well: they equal the reference of their own integers."""
    for bundle, expected in ((sound, None), (broken, BROKEN)):
        report = check_bundle(bundle, Runtime.ORT, original, 3, 2, 0, SILENT, 4)
        assert report.passed
        first = report.blame.costs[0]
        assert report.blame.layers == len(bundle.layers)
        assert len(report.blame.costs) == 4
        assert [cost.error for cost in report.blame.costs] == sorted(
            cost.error for cost in report.blame.costs
        )
        if expected is not None:
            assert first.name == report.worst(1)[0].name == expected
            assert first.gain > 0.9
            assert all(cost.gain < 0.1 for cost in report.blame.costs[1:])
        else:
            assert first.gain < 0.9


def test_restoring_needs_the_checkpoint(sound):
    with pytest.raises(RecipeError, match="--ckpt"):
        check_bundle(sound, Runtime.ORT, None, 1, 1, 0, SILENT, 1)


def test_full_precision_loses_nothing(sound, reference, monkeypatch, original):
    from mpq_export.runtimes.full_precision import FullPrecisionDenoiser

    model = FullPrecisionDenoiser(original.model, original.model_config)
    monkeypatch.setattr("mpq_export.drawing.open_denoiser", lambda *_: model)
    limits = Limits(frechet_increase=0.0, psnr=100.0, accuracy_drop=0.0)
    report = pass_through_gate(sound, Runtime.ORT, reference, limits, SILENT)
    assert report.passed
    assert report.verdicts[1].measured == math.inf


def test_references_of_something_else_are_refused(sound, reference):
    def refused(match, limits=LIMITS, error=ReferenceFileError, drawn=None, **changes):
        other = replace(reference, **changes)
        if drawn is not None:
            other = replace(other, drawn=reference.drawn.model_copy(update=drawn))
        with pytest.raises(error, match=match):
            pass_through_gate(sound, Runtime.ORT, other, limits, SILENT)

    refused("another architecture", drawn={"model_config_sha256": "0" * 64})
    refused("other weights", drawn={"weights_sha256": "0" * 64})
    refused("does not say what it was made of", drawn={"weights_sha256": None})
    refused("not of full precision", drawn={"by": DrawnBy.BUNDLE})
    refused("not of full precision", drawn={"by": DrawnBy.BUNDLE, "weights_sha256": None})
    refused("more images", drawn={"num_images": MOST_IMAGES + 1})
    refused("another way", drawn={"batch": 4})
    refused("features are not those", extractor="Other 0123")
    refused("statistics of features", error=RecipeError, data=None)
    refused("classifier", error=RecipeError, accuracy=None)
    refused("images", error=RecipeError, limits=Limits(psnr=1.0), shown=reference.shown[:0])


def test_a_bundle_without_a_digest_is_compared_with_any_weights(sound, reference):
    """It was made before bundles kept one; nobody but a checkpoint may draw for it either."""
    former = replace(
        sound, quantization=sound.quantization.model_copy(update={"source_sha256": None})
    )
    for digest in (None, "0" * 64):
        drawn = reference.drawn.model_copy(update={"weights_sha256": digest})
        require_answerable(former, replace(reference, drawn=drawn), Limits(psnr=1.0))
        by_bundle = drawn.model_copy(update={"by": DrawnBy.BUNDLE})
        with pytest.raises(ReferenceFileError, match="not of full precision"):
            require_answerable(former, replace(reference, drawn=by_bundle), Limits(psnr=1.0))


def test_tensors_that_do_not_fit_their_header_are_refused(sound, reference):
    """A crafted file may have the right config and extractor, and anything else in its tensors."""

    def refused(match, limits, **changes):
        with pytest.raises(ReferenceFileError, match=match):
            pass_through_gate(sound, Runtime.ORT, replace(reference, **changes), limits, SILENT)

    for shape in ((20, 3, 8, 8), (20, 1, 8, 1), (20, 1, 1, 1)):
        refused("Its images are", Limits(psnr=1.0), shown=np.zeros(shape, np.uint8))
    wide = FeatureStatistics.of(np.eye(5))
    refused("another width", Limits(frechet_increase=1.0), images=wide, data=wide)
    huge = FeatureStatistics(2, np.zeros(2), np.full((2, 2), 1.7e308))
    refused("have no distance", Limits(frechet_increase=1.0), images=huge)
    refused("have no distance", Limits(frechet_increase=1.0), data=huge)


def test_what_cannot_be_answered_is_refused_before_anything_is_drawn(
    sound, reference, original, monkeypatch
):
    monkeypatch.setattr(gate, "open_drawer", lambda *_: pytest.fail("it draws"))
    asked = Limits(frechet_increase=0.1)
    require_answerable(sound, None, asked)
    require_answerable(sound, reference, LIMITS)
    with pytest.raises(ReferenceFileError, match="features are not those"):
        pass_through_gate(sound, Runtime.ORT, replace(reference, extractor="x"), asked, SILENT)
    monkeypatch.setattr(gate, "judge_of", lambda _bundle: None)
    for limits in (asked, Limits(accuracy_drop=0.1)):
        with pytest.raises(RecipeError, match="Nothing measures"):
            require_answerable(sound, None, limits)
    require_answerable(sound, None, Limits(psnr=1.0))


def test_limits_on_images_alone_need_no_judge(sound, reference, monkeypatch):
    """It needs torch, which a board does not have."""
    monkeypatch.setattr(gate, "judge_of", lambda _bundle: pytest.fail("it is loaded"))
    report = pass_through_gate(sound, Runtime.ORT, reference, Limits(psnr=1.0), SILENT)
    assert report.passed


def test_no_more_images_than_features_are_remarked(sound, original, reference):
    few = draw_reference(sound, original, DrawRequest(2, 3, 0), SILENT)
    report = pass_through_gate(sound, Runtime.ORT, few, Limits(frechet_increase=9.0), SILENT)
    assert "2 images are no more than the 2 features" in report.note
    assert not pass_through_gate(sound, Runtime.ORT, few, Limits(psnr=1.0), SILENT).note
    assert not pass_through_gate(sound, Runtime.ORT, reference, LIMITS, SILENT).note


def test_psnr():
    images = np.zeros((2, 1, 2, 2), np.uint8)
    assert psnr(images, images) == math.inf
    assert psnr(images, images + 51) == pytest.approx(20 * math.log10(5))


@pytest.mark.parametrize(
    ("text", "share"), [("15%", 0.15), ("0.15", 0.15), (" 5 % ", 0.05), ("150%", 1.5)]
)
def test_shares_are_percents_or_fractions(text, share):
    assert _share("--x", text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "much", "nan", "inf%"])
def test_other_words_are_no_shares(text):
    with pytest.raises(RecipeError, match="--x"):
        _share("--x", text)


@pytest.mark.parametrize("text", ["15", "2", "1", "1.5e1"])
def test_percents_without_a_sign_are_refused(text):
    """As shares they would be limits that are never broken."""
    with pytest.raises(RecipeError, match=f"Write {float(text):g}%"):
        _share("--x", text)


@pytest.mark.parametrize("text", ["100%", "200%", "2"])
def test_no_more_than_all_can_be_lost(text):
    with pytest.raises(RecipeError, match="--x"):
        _share_of_all("--x", text)
    assert _share_of_all("--x", "99%") == pytest.approx(0.99)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_limit_in_decibels_is_finite(value):
    with pytest.raises(RecipeError, match="--x"):
        _finite("--x", value)
    assert _finite("--x", 18.0) == 18.0
    assert _finite("--x", None) is None
