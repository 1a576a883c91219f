"""What a bundle remembers of its checkpoint's weights."""

import fixtures
import torch
from torch import nn

from mpq_export.bundle import read_bundle
from mpq_export.checkpoints import load_checkpoint
from mpq_export.checkpoints.weights import record_weights


def test_the_record_is_of_values_names_and_shapes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3))
    record = record_weights(model)
    assert record.parameters == 17
    assert record_weights(model) == record
    state = model.state_dict()
    turned = {f"1.{k}": state[f"0.{k}"] for k in ("weight", "bias")}
    turned |= {f"0.{k}": state[f"1.{k}"] for k in ("weight", "bias")}
    other = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    other.load_state_dict(turned)
    assert record_weights(other).sha256 != record.sha256
    with torch.no_grad():
        model[1].bias[2] += 1e-3
    assert record_weights(model).sha256 != record.sha256


def test_views_that_do_not_lie_together_count_by_their_values():
    model = nn.Linear(3, 2, bias=False)
    record = record_weights(model)
    model.weight = nn.Parameter(model.weight.detach().T.contiguous().T)
    assert not model.weight.is_contiguous()
    assert record_weights(model) == record


def test_a_bundle_knows_its_checkpoint_whatever_file_it_is_in(
    bundle_folder, pipeline_folder, tmp_path
):
    kept = read_bundle(bundle_folder).quantization
    fixtures.tiny_unet().save_pretrained(tmp_path / "pickled", safe_serialization=False)
    scheduler = pipeline_folder / "scheduler" / "scheduler_config.json"
    for source in (pipeline_folder, tmp_path / "pickled"):
        record = record_weights(load_checkpoint(source, scheduler_path=scheduler).model)
        assert record.sha256 == kept.source_sha256
        assert record.parameters == kept.full_precision_parameters
