"""Exports that train, shared by the tests of what can happen to them."""

from dataclasses import replace

import fixtures
import pytest
import yaml
from training_runs import RECIPE

from mpq_export.checkpoints import load_checkpoint
from mpq_export.export import export_checkpoint
from mpq_export.export_request import ExportRequest
from mpq_export.methods import chosen_recipe


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    file.write_text(yaml.safe_dump(RECIPE))
    return file


@pytest.fixture(scope="session")
def request_for(recipe_file):
    choice = chosen_recipe(None, recipe_file, None)

    def make(out, resume=False, **changes):
        request = ExportRequest(
            choice.bits, choice.recipe, (), fixtures.NUM_STEPS, 0, out, resume=resume
        )
        return replace(request, **changes)

    return make


@pytest.fixture(scope="session")
def export(pipeline_folder):
    """Export in this process; a checkpoint's model is consumed, so that each run has its own."""

    def run(request, progress=None):
        progress = progress or fixtures.SilentProgress()
        return export_checkpoint(load_checkpoint(pipeline_folder), request, progress)

    return run


@pytest.fixture(scope="session")
def whole(export, request_for, tmp_path_factory):
    """The bundle of a run that nothing stopped; do not change it."""
    out = tmp_path_factory.mktemp("whole") / "b"
    export(request_for(out))
    return out


@pytest.fixture
def command(pipeline_folder, recipe_file):
    """The words of the command that makes such a bundle."""

    def words(out):
        return [
            "--ckpt", pipeline_folder, "--recipe", recipe_file, "--inference-steps",
            fixtures.NUM_STEPS, "--out", out,
        ]  # fmt: skip

    return words
