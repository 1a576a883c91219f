"""What is refused before anything is loaded, drawn or timed."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from mpq_export.pipelines.registry import DrawRequest

from mpq_export.bundle import read_bundle
from mpq_export.errors import CheckpointError, RecipeError, UserError
from mpq_export.evaluation.bench import request_checks
from mpq_export.evaluation.bench.request_checks import (
    require_drawable,
    require_one_model,
    require_outputs,
    whose_weights_are_known,
)
from mpq_export.sampling import SamplingLoop


@pytest.fixture
def bundle(digits_folder):
    return read_bundle(digits_folder)


def made_from(bundle, digest):
    quantization = bundle.quantization.model_copy(update={"source_sha256": digest})
    return replace(bundle, quantization=quantization)


def test_other_schedulers_are_other_models(bundle):
    other = replace(bundle, scheduler_config={**bundle.scheduler_config, "beta_end": 0.5})
    require_one_model([bundle, bundle])
    with pytest.raises(UserError, match="different models"):
        require_one_model([bundle, other])


def test_bundles_of_other_weights_are_refused_wherever_both_are_known(bundle):
    old, one, other = (made_from(bundle, digest) for digest in (None, 64 * "a", 64 * "b"))
    require_one_model([old, one, old, one])
    with pytest.raises(UserError, match="made from different weights"):
        require_one_model([one, other])
    with pytest.raises(UserError, match="made from different weights"):
        require_one_model([old, one, other])


def test_a_checkpoint_is_held_against_weights_that_are_known(bundle):
    old, one = made_from(bundle, None), made_from(bundle, 64 * "a")
    assert whose_weights_are_known([old, one, old]) is one
    assert whose_weights_are_known([old]) is old


def test_bundles_with_other_components_are_refused(bundle, tmp_path):
    def with_components(name, digest, version):
        folder = tmp_path / name / "pipeline"
        folder.mkdir(parents=True)
        files = {"vae/model.safetensors": {"sha256": digest, "size": 1}}
        manifest = {"files": files, "versions": {"torch": version}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return replace(bundle, path=folder.parent)

    one, same = with_components("one", "a", "1"), with_components("same", "a", "2")
    require_one_model([one, same])
    with pytest.raises(UserError, match="different pipelines"):
        require_one_model([one, with_components("other", "b", "1")])
    with pytest.raises(UserError, match="different pipelines"):
        require_one_model([one, bundle])


def test_steps_that_the_scheduler_does_not_have_are_refused(bundle):
    require_drawable(bundle, DrawRequest(10, 1000, 0))
    with pytest.raises(CheckpointError, match="5000 sampling steps are not possible"):
        require_drawable(bundle, DrawRequest(10, 5000, 0))


def test_a_model_without_text_takes_no_prompts(bundle):
    with pytest.raises(RecipeError, match="neither prompts nor guidance"):
        require_drawable(bundle, DrawRequest(10, 10, 0, ("a fox",)))


@pytest.mark.parametrize(
    ("cls", "prompts", "guidance", "said"),
    [
        ("StableDiffusionPipeline", (), None, "draws from a text"),
        ("DDPMPipeline", ("a fox",), None, "takes no text"),
        ("DDPMPipeline", (), 7.5, "takes no guidance"),
        ("StableDiffusionPipeline", ("a fox",), 7.5, None),
        ("NoSuchPipeline", ("a fox",), None, None),
    ],
)
def test_prompts_and_guidance_are_as_the_pipeline_takes_them(
    bundle, monkeypatch, cls, prompts, guidance, said
):
    quantization = bundle.quantization.model_copy(update={"family": "general"})
    general = replace(bundle, quantization=quantization)
    monkeypatch.setattr(request_checks, "loop_of", lambda bundle: SamplingLoop.DIFFUSERS)
    monkeypatch.setattr(request_checks, "verified_index", lambda path: {"_class_name": cls})
    request = DrawRequest(10, 10, 0, prompts, guidance)
    if said is None:
        require_drawable(general, request)
    else:
        with pytest.raises(RecipeError, match=said):
            require_drawable(general, request)


def test_outputs_are_tried_before_the_work(tmp_path):
    require_outputs(tmp_path / "a" / "b", ["report.json"])
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="report cannot be written"):
            require_outputs(out, ["report.json"])
    (tmp_path / "report.svg").mkdir()
    with pytest.raises(UserError, match="A folder is where"):
        require_outputs(tmp_path, ["report.json", "report.svg"])


def test_a_row_draws_in_its_own_bundles_pipeline(bundle):
    from mpq_export.evaluation.bench.run import _pipeline_of

    other = replace(bundle, path=bundle.path / "elsewhere")
    request = SimpleNamespace(bundles=(bundle, other))
    rows = [SimpleNamespace(folder=folder) for folder in (other.path, bundle.path, "baseline")]
    assert [_pipeline_of(row, request) for row in rows] == [other, bundle, bundle]
