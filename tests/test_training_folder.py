"""The working folder of a training run: whose it is, and what of it may be removed."""

from dataclasses import replace
from pathlib import Path

import fixtures
import pytest
import torch

from mpq_export.checkpoints import load_checkpoint
from mpq_export.checkpoints.weights import record_weights
from mpq_export.export_request import ExportRequest
from mpq_export.methods import recipe_of
from mpq_export.precision import BitSpec
from mpq_export.training_folder import ResumeError, RunIdentity, TrainingFolder


@pytest.fixture(scope="module")
def checkpoint(pipeline_folder):
    return load_checkpoint(pipeline_folder)


def request_for(out, **changes):
    recipe = recipe_of("mpq-dmv2").trained_for(5)
    request = ExportRequest(
        BitSpec(3, 4), recipe, (), fixtures.NUM_STEPS, 0, out, prompts=("a fox", "a hen")
    )
    return replace(request, **changes)


def identity_of(checkpoint, request):
    return RunIdentity.of(checkpoint, record_weights(checkpoint.model), request, 1, "no")


@pytest.fixture
def identity(checkpoint, tmp_path):
    return identity_of(checkpoint, request_for(tmp_path / "b"))


@pytest.fixture
def folder(tmp_path):
    """The folder of a run whose start has been written."""
    made = TrainingFolder.of(tmp_path / "b")
    made.start.mkdir(parents=True)
    (made.start / "config.json").write_text("{}")
    return made


def test_it_stands_beside_the_output(tmp_path, monkeypatch):
    assert TrainingFolder.of(tmp_path / "b").path == tmp_path / "b.training"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert TrainingFolder.of(Path(".")).path == tmp_path / "here.training"


def test_a_run_goes_on_as_what_it_began(folder, identity):
    folder.require_free()
    with pytest.raises(ResumeError, match="no training run to resume"):
        folder.require(identity)
    conditions = {"labels": torch.tensor([[1, 2], [3, 4]]).T}
    folder.begin(identity, conditions)
    folder.require(identity)
    assert torch.equal(folder.conditions()["labels"], conditions["labels"])
    with pytest.raises(ResumeError, match=r"unfinished training run.*--resume"):
        folder.require_free()


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"bits": BitSpec(4, 4)}, ["bits"]),
        ({"seed": 1}, ["seed"]),
        ({"num_steps": 4}, ["inference_steps"]),
        ({"prompts": ("a fox",)}, ["prompts"]),
        ({"prompts": None}, ["prompts"]),
        ({"recipe": recipe_of("mpq-dmv2").trained_for(6)}, ["recipe.training.updates"]),
        (
            {"recipe": recipe_of("rtn").trained_for(5)},
            ["recipe.method", "recipe.weight_form", "recipe.training.trained"],
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_options_are_named(folder, checkpoint, identity, tmp_path, changes, names):
    folder.begin(identity, None)
    other = identity_of(checkpoint, request_for(tmp_path / "b", **changes))
    with pytest.raises(ResumeError, match="another one") as caught:
        folder.require(other)
    for name in names:
        assert name in caught.value.why
    if len(names) == 1:
        assert caught.value.why == f"It differs in {names[0]}"


def test_other_models_and_schedulers_are_named(folder, checkpoint, identity, tmp_path):
    folder.begin(identity, None)
    request = request_for(tmp_path / "b")
    scheduler = {**checkpoint.scheduler_config, "beta_end": 0.5}
    for changed, name in [
        (replace(checkpoint, model=fixtures.tiny_unet(seed=1)), "weights"),
        (replace(checkpoint, scheduler_config=scheduler), "scheduler_config.beta_end"),
    ]:
        with pytest.raises(ResumeError, match="another one") as caught:
            folder.require(identity_of(changed, request))
        assert caught.value.why == f"It differs in {name}"


def test_targets_and_the_place_may_change(checkpoint, identity, tmp_path):
    moved = request_for(tmp_path / "c", float16=True, resume=True)
    assert identity_of(checkpoint, moved) == identity


@pytest.mark.parametrize("text", ["", "[]", "{", '{"bits": "w3a4"}'])
def test_a_damaged_record_is_a_user_error(folder, identity, text):
    folder.begin(identity, None)
    (folder.path / "run.json").write_text(text)
    with pytest.raises(ResumeError):
        folder.require(identity)


def test_damaged_conditions_are_a_user_error(folder, identity):
    folder.begin(identity, {"a": torch.zeros(3)})
    (folder.path / "conditions.safetensors").write_bytes(b"123")
    with pytest.raises(ResumeError, match="conditions cannot be read"):
        folder.conditions()


def test_clearing_leaves_nothing_of_a_run(folder, identity):
    """What a killed process was writing included."""
    folder.begin(identity, {"a": torch.zeros(3)})
    folder.state_file.write_bytes(b"")
    (folder.path / ".state.x1y2.safetensors").write_bytes(b"half")
    (folder.path / ".start.abc.partial").mkdir()
    folder.clear()
    assert not folder.path.exists()
    folder.clear()


@pytest.mark.parametrize("name", ["thesis.tex", "start.tex", ".state.txt"])
def test_a_folder_of_that_name_that_is_not_ours_is_left_alone(tmp_path, name):
    folder = TrainingFolder.of(tmp_path / "b")
    folder.path.mkdir()
    (folder.path / name).write_text("mine")
    with pytest.raises(ResumeError, match="holds other files"):
        folder.require_free()
    folder.clear()
    assert (folder.path / name).read_text() == "mine"


def test_a_file_or_a_link_in_its_place_is_left_alone(tmp_path):
    folder = TrainingFolder.of(tmp_path / "b")
    folder.path.write_text("mine")
    with pytest.raises(ResumeError, match="holds other files"):
        folder.require_free()
    folder.clear()
    assert folder.path.read_text() == "mine"
    folder.path.unlink()
    (tmp_path / "elsewhere").mkdir()
    folder.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ResumeError, match="holds other files"):
        folder.require_free()


def test_other_processes_and_precisions_are_named(folder, identity):
    folder.begin(identity, None)
    for field, value in (("num_processes", 2), ("mixed_precision", "bf16"), ("mpq_export", "0")):
        with pytest.raises(ResumeError) as caught:
            folder.require(replace(identity, **{field: value}))
        assert caught.value.why == f"It differs in {field}"


def test_one_process_works_on_a_run(folder, identity):
    with folder.locked(), pytest.raises(ResumeError, match="Another process"), folder.locked():
        pass
    with folder.locked():
        folder.begin(identity, None)
    assert folder.is_begun()


def test_a_lock_leaves_nothing_where_nothing_was_begun(tmp_path):
    with pytest.raises(ZeroDivisionError), TrainingFolder.of(tmp_path / "b").locked():
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_were_writing_is_removed(folder, identity):
    folder.begin(identity, None)
    folder.state_file.write_bytes(b"")
    (folder.path / ".state.x1y2.safetensors").write_bytes(b"half")
    with folder.locked():
        assert not (folder.path / ".state.x1y2.safetensors").exists()
    assert folder.state_file.exists()


def test_a_kill_while_clearing_leaves_no_run(folder, identity, monkeypatch):
    folder.begin(identity, None)
    monkeypatch.setattr("shutil.rmtree", lambda *_args, **_kw: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        folder.clear()
    assert not folder.is_begun()
    folder.require_free()


def test_a_damaged_start_is_a_user_error(folder, identity):
    folder.begin(identity, None)
    with pytest.raises(ResumeError, match=r"began with.*Delete the folder"):
        folder.start_bundle()
    with pytest.raises(ResumeError, match="Delete the folder"):
        folder.name()


def test_missing_conditions_are_not_drawn(folder, identity):
    folder.begin(identity, None)
    assert folder.conditions() is None
    (folder.path / "conditions.safetensors").unlink()
    with pytest.raises(ResumeError, match="conditions cannot be read"):
        folder.conditions()
