"""Artefacts, records, and the command on a tiny model."""

import json
import os
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mpq_export.errors import UserError
from mpq_export.evaluation.cpu_benchmark import __main__ as command
from mpq_export.evaluation.cpu_benchmark.artefacts import Artefact, artefact_key
from mpq_export.evaluation.cpu_benchmark.backends import BACKENDS, OURS
from mpq_export.evaluation.cpu_benchmark.models import MODELS, BenchmarkModel
from mpq_export.evaluation.cpu_benchmark.records import read_record, record_path, write_record
from mpq_export.evaluation.cpu_benchmark.sittings import Sitting
from mpq_export.evaluation.timing.failures import one_line
from mpq_export.evaluation.timing.rounds import Cell

TINY_CONFIG = {
    "_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 2, "out_channels": 2,
    "layers_per_block": 1, "block_out_channels": [8, 16], "norm_num_groups": 4,
    "attention_head_dim": 8, "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
TINY = BenchmarkModel("tiny", (1,), TINY_CONFIG)
MACHINE = {"processor": "P"}


def test_an_artefact_is_named_by_what_it_is_made_from():
    wider = BenchmarkModel("tiny", (1,), {**TINY_CONFIG, "block_out_channels": [8, 32]})
    for which in Artefact:
        assert artefact_key(TINY, which) == artefact_key(TINY, which)
        assert artefact_key(TINY, which) != artefact_key(wider, which)
    assert len({artefact_key(TINY, which) for which in Artefact}) == len(Artefact)


def test_the_models_are_what_their_names_say():
    import diffusers
    from accelerate import init_empty_weights

    config = dict(MODELS["unet26m"].config)
    with init_empty_weights():
        model = diffusers.UNet2DModel.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == 25_838_595
    assert (MODELS["digits"].trained_checkpoint() / "unet" / "config.json").is_file()


def test_a_finished_sitting_is_found_again_under_the_same_conditions_alone(tmp_path):
    sitting = Sitting(TINY, 1, OURS)
    path = record_path(sitting, MACHINE, 2, 20, tmp_path)
    assert read_record(path) is None
    cells = [Cell("ours-w3a4", "native", 5, 0.1, 7, [1.0, 2.0]), Cell("ours-w4a8", failure="why")]
    write_record(path, cells)
    assert read_record(record_path(sitting, MACHINE, 2, 20, tmp_path)) == cells
    for other in (
        record_path(sitting, {"processor": "Q"}, 2, 20, tmp_path),
        record_path(sitting, MACHINE, 1, 20, tmp_path),
        record_path(sitting, MACHINE, 2, 30, tmp_path),
        record_path(Sitting(TINY, 2, OURS), MACHINE, 2, 20, tmp_path),
    ):
        assert read_record(other) is None


def test_an_error_is_one_line():
    assert one_line(ValueError("first\nsecond")) == "ValueError: first"
    assert one_line(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("option", "name"), [("--model", "sd16"), ("--backend", "ort-int5"), ("--threads", "9999")]
)
def test_what_does_not_exist_is_a_users_error(option, name, tmp_path):
    done = CliRunner().invoke(_app(), ["--out", str(tmp_path), option, name])
    assert isinstance(done.exception, UserError)
    assert option in str(done.exception)


def _app() -> typer.Typer:
    app = typer.Typer()
    app.command()(command.main)
    return app


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """The command's folder after two rounds of one of ours and one peer."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", TINY)
        for _ in range(2):  # the second time nothing is made or measured anew
            _invoke(folder)
    return folder


def _invoke(folder: Path) -> None:
    words = ["--model", "tiny", "--backend", "ours-w3a4", "--backend", "ort-fp32"]
    limits = ["--rounds", "2", "--threads", "1"]
    places = ["--out", str(folder / "out"), "--work", str(folder / "work")]
    done = CliRunner().invoke(_app(), [*words, *limits, *places], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_the_command_measures_every_backend(measured):
    rows = json.loads((measured / "out" / "cpu.json").read_text())["rows"]
    assert [row["backend"] for row in rows] == ["ours-w3a4", "ort-fp32"]
    for row in rows:
        assert row["failure"] is None
        assert row["step"]["rounds"] == 2
        assert row["step"]["median"] > 0
        assert row["peak_bytes"] > 2e7
        assert set(row["speedups"]) == {"ours-w3a4"}
    assert rows[0]["file_bytes"] < rows[1]["file_bytes"]
    assert rows[0]["runs_as"]
    text = (measured / "out" / "cpu.md").read_text()
    assert all(BACKENDS[row["backend"]].title in text for row in rows)


def test_nothing_is_made_twice(measured):
    names = sorted(path.name for path in (measured / "work" / "tiny").iterdir())
    assert len(names) == len({name.rpartition("-")[0] for name in names})
    assert len(os.listdir(measured / "work" / "records")) == 1
