"""The shared training loop: what was killed and started again ends with the same weights."""

import pytest
import torch
from mpq_export.pipelines.denoising import (
    cosine_scheduler,
    denoising_loss,
    picked,
    with_dropped_labels,
)
from mpq_export.pipelines.pretraining import TrainingPlan, train
from torch import nn

from mpq_export.errors import UserError

PLAN = TrainingPlan("line", 12, 8, 0.05, 0.1, 0.9, 3)


class Killed(Exception):
    pass


def line() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def loss_until(last_step: float = float("inf")):
    """Fits the sum of three random numbers; raises after so many calls."""
    calls = []

    def loss(model, generator, device):
        calls.append(1)
        if len(calls) > last_step:
            raise Killed
        inputs = torch.randn(8, 3, generator=generator)
        return (model(inputs.to(device)) - inputs.to(device).sum(1, keepdim=True)).square().mean()

    return loss


def train_line(folder, loss, plan=PLAN, seconds_between_saves=0.0):
    return train(line, loss, plan, folder, seconds_between_saves)


def test_a_resumed_training_ends_with_the_same_weights(tmp_path, capsys):
    whole = train_line(tmp_path / "whole", loss_until())
    with pytest.raises(Killed):
        train_line(tmp_path / "halves", loss_until(5))
    assert "goes on" not in capsys.readouterr().out
    halves = train_line(tmp_path / "halves", loss_until())
    assert "line: goes on after step 5 of 12" in capsys.readouterr().out
    assert halves.loss == whole.loss
    start = line().state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, halves.model.state_dict()[name])
        assert not torch.equal(value, start[name])


def test_a_finished_training_takes_no_further_step(tmp_path):
    first = train_line(tmp_path, loss_until())
    again = train_line(tmp_path, loss_until(0))
    assert (again.loss, again.seconds) == (first.loss, first.seconds)


def test_what_is_learned_is_less_wrong(tmp_path):
    plan = TrainingPlan("line", 300, 8, 0.05, 0.0, 0.9, 3)
    assert train_line(tmp_path, loss_until(), plan, 60.0).loss < 0.1


def test_the_rate_rises_and_falls():
    plan = TrainingPlan("line", 100, 8, 1.0, 0.0, 0.9, 0)
    rates = [plan.rate(step) for step in range(100)]
    peak = rates.index(max(rates))
    assert peak == 5
    assert max(rates) == 1.0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[-1] < 0.02


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"plan": {"steps": 99}}, "another training"),
        ([1, 2], "another training"),
        (b"nonsense", "cannot be read"),
    ],
)
def test_a_foreign_state_is_refused(tmp_path, state, message):
    path = tmp_path / "line" / "state.pt"
    path.parent.mkdir()
    if isinstance(state, bytes):
        path.write_bytes(state)
    else:
        torch.save(state, path)
    with pytest.raises(UserError, match=message):
        train_line(tmp_path, loss_until())


def test_the_state_of_another_model_is_refused(tmp_path):
    train_line(tmp_path, loss_until())
    with pytest.raises(UserError, match="another model"):
        train(lambda: nn.Linear(3, 1), loss_until(), PLAN, tmp_path)


def test_batches_depend_on_seed_and_step_alone():
    images, labels = torch.rand(50, 1, 4, 4), torch.arange(50) % 10
    examples = with_dropped_labels(picked(images, labels, 40), 10, 0.25)

    def batch(step, plan=PLAN):
        torch.rand(step)  # whatever else draws from torch's own generator
        return examples(plan.generator(step))

    for one, other in zip(batch(7), batch(7), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(batch(7)[0], batch(8)[0])
    given, kept = batch(7)
    assert 0 < (kept == 10).sum() < 25
    for image, label in zip(given, kept, strict=True):
        (place,) = (images == image).flatten(1).all(1).nonzero()
        assert label in (labels[place], 10)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_model_that_knows_the_noise_has_no_loss(prediction_type):
    scheduler = cosine_scheduler(prediction_type)
    images = torch.full((3, 1, 4, 4), 0.5)
    loss = denoising_loss(scheduler, lambda _: (images, torch.tensor([0, 1, 2])))

    class Knowing(nn.Module):
        def forward(self, noisy, timesteps, class_labels):
            assert class_labels.tolist() == [0, 1, 2]
            signal = scheduler.alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1)
            level = (1 - signal**2).sqrt()
            noise = (noisy - signal * images) / level
            known = noise if prediction_type == "epsilon" else signal * noise - level * images
            return type("Output", (), {"sample": known})

    cpu = torch.device("cpu")
    assert loss(Knowing(), PLAN.generator(0), cpu) < 1e-9
