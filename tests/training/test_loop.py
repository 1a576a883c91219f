"""The training loop: it learns, goes on where it was, and says where it broke."""

import signal
from dataclasses import replace

import fixtures
import numpy as np
import pytest
import torch

from mpq_export.errors import Interrupted
from mpq_export.training import loop
from mpq_export.training.choices import Trained, TrainingChoices
from mpq_export.training.features import Features
from mpq_export.training.loop import Trainer, TrainingDiverged, train
from mpq_export.training.output_bias import fit_output_bias
from mpq_export.training.relation_settings import MemorySettings, TimeSmoothedSettings
from mpq_export.training.relations import (
    MemoryRelation,
    TimeSmoothedRelation,
)
from mpq_export.training.state_file import TrainingStateError, read_state, write_state
from mpq_export.training.student import build_student
from mpq_export.training.trajectory_pool import PoolSettings, TrajectoryPool

SCHEDULER = {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}
FULL = TrainingChoices(updates=6, groups=2, images_per_group=2, weight_rate=0.05)
LOW_RANK = FULL.model_copy(update={"trained": Trained.LOW_RANK, "rank": 4})
WEIGHED = LOW_RANK.model_copy(update={"step_power": 20.0, "step_memory": 0.5})
RELATIONS = {
    "none": lambda: None,
    "memory": lambda: MemoryRelation(
        MemorySettings(capacity=90, sampled=30, pushed_per_image=4, rows_per_image=8), 3, seed=1
    ),
    "time-smoothed": lambda: TimeSmoothedRelation(TimeSmoothedSettings(), seed=1),
}


class StopsAt(fixtures.SilentProgress):
    """Sends a signal to its own process when so many updates are done."""

    def __init__(self, update: int, number: signal.Signals = signal.SIGINT) -> None:
        super().__init__()
        self.left, self.number = update, number

    def advance(self, parts: int = 1) -> None:
        self.left -= parts
        if self.left == 0 and parts:
            signal.raise_signal(self.number)


@pytest.fixture(scope="module")
def teacher():
    return fixtures.tiny_unet()


@pytest.fixture(scope="module")
def config(teacher):
    return {**teacher.config, "_class_name": "UNet2DModel"}


@pytest.fixture
def trainer_of(teacher, config, bundle_folder):
    """A trainer at its start."""

    def make(choices=FULL, relation="none", weights=((1.0, 1.0),) * 3):
        starts = fixtures.layer_starts(bundle_folder, teacher)
        student = build_student(teacher, starts, choices, seed=2)
        return Trainer(
            student,
            RELATIONS[relation](),
            choices,
            config,
            fixtures.OneProcess(),
            torch.tensor(weights),
        )

    return make


@pytest.fixture
def pool_from(teacher, config):
    def make(first):
        settings = PoolSettings(2, 2, fixtures.NUM_STEPS)
        return TrajectoryPool(teacher, config, SCHEDULER, settings, 5, first)

    return make


def assert_same_training(one, other):
    assert one.records == other.records
    for (name, left), right in zip(
        one.student.module.named_parameters(), other.student.module.parameters(), strict=True
    ):
        assert torch.equal(left, right), name


@pytest.mark.parametrize(
    ("choices", "relation"), [(FULL, "none"), (LOW_RANK, "memory")], ids=["full", "low-rank"]
)
def test_the_loss_falls(trainer_of, pool_from, choices, relation):
    """Means over whole rounds of the sampler, whose steps differ in how hard they are."""
    many = choices.model_copy(update={"updates": 24, "weight_rate": 0.1})
    trainer = trainer_of(many, relation)
    progress = fixtures.SilentProgress()
    train(trainer, pool_from, None, progress)
    task = np.array([record.task for record in trainer.records]).reshape(4, 6).mean(axis=1)
    assert task[-1] < 0.9 * task[0], task
    assert [record.update for record in trainer.records] == list(range(1, 25))
    assert progress.tasks == ["train"]
    if relation != "none":
        record = trainer.records[-1]
        expected = record.task + choices.relation_weight * record.relation
        assert record.loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("choices", "relation"),
    [(FULL, "none"), (FULL, "time-smoothed"), (LOW_RANK, "memory"), (WEIGHED, "none")],
    ids=["none", "time-smoothed", "memory", "step weights"],
)
def test_a_stopped_run_goes_on_with_the_same_bits(
    trainer_of, pool_from, tmp_path, choices, relation
):
    whole = trainer_of(choices, relation)
    train(whole, pool_from, None, fixtures.SilentProgress())
    file = tmp_path / "state.safetensors"
    with pytest.raises(Interrupted, match=r"after 2 of 6 updates.*--resume"):
        train(trainer_of(choices, relation), pool_from, file, StopsAt(2))
    with pytest.raises(Interrupted, match="after 5 of 6"):
        train(trainer_of(choices, relation), pool_from, file, StopsAt(5, signal.SIGTERM))
    resumed = trainer_of(choices, relation)
    train(resumed, pool_from, file, fixtures.SilentProgress())
    assert_same_training(resumed, whole)
    done = trainer_of(choices, relation)
    train(done, pool_from, file, fixtures.SilentProgress())
    assert_same_training(done, whole)


def test_states_are_saved_on_the_way(trainer_of, pool_from, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(loop, "_PAUSE_PER_SAVE", 0.0)
    file, seen = tmp_path / "state.safetensors", []

    class Watching(fixtures.SilentProgress):
        def advance(self, parts: int = 1) -> None:
            seen.append(len(read_state(file).records) if file.exists() else 0)

    train(trainer_of(), pool_from, file, Watching())
    assert seen == [0, 0, 1, 2, 3, 4, 5]
    assert len(read_state(file).records) == 6
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_signal_during_the_last_update_still_ends_the_run(trainer_of, pool_from, tmp_path):
    trainer = trainer_of()
    train(trainer, pool_from, tmp_path / "state.safetensors", StopsAt(6))
    assert trainer.update == 6


def test_errors_count_by_their_step_and_band(trainer_of, pool_from):
    """Losses that each see one band of one step add up to the loss that sees all."""
    batch = (pool := pool_from(0)).next()
    assert sorted(batch.steps.unique().tolist()) == [0, 1]

    def task(weights):
        trainer = trainer_of(weights=weights)
        trainer.step(batch, pool, Features())
        return trainer.records[0].task

    alone = [task(row.view(3, 2).tolist()) for row in torch.eye(6)]
    assert min(alone[:4]) > 0
    assert alone[4:] == [0, 0], "no image is at the third step"
    assert task([[1.0, 1.0]] * 3) == pytest.approx(sum(alone), rel=1e-5)
    weighed = 5 * alone[0] + alone[1] / 2 + 2 * alone[2] + alone[3] / 4
    assert task([[5.0, 0.5], [2.0, 0.25], [9.0, 9.0]]) == pytest.approx(weighed, rel=1e-5)


def test_steps_where_the_student_is_far_off_count_less(trainer_of, pool_from):
    """The loss of one update is that of its steps, each by the weight that its plain error earns,
    whatever the weights of errors."""
    batch = (pool := pool_from(0)).next()
    bands = [[5.0, 0.5], [2.0, 0.25], [9.0, 9.0]]

    def task(choices, weights):
        trainer = trainer_of(choices, weights=weights)
        trainer.step(batch, pool, Features())
        return trainer.records[0].task

    plain = FULL.model_copy(update={"step_power": 0.0})
    errors = torch.tensor([task(plain, [[float(i == j)] * 2 for i in range(3)]) for j in range(2)])
    weighted = [
        task(plain, [bands[j] if i == j else [0.0, 0.0] for i in range(3)]) for j in range(2)
    ]
    # A step that is not there counts as the mean of the others.
    means = torch.cat([errors, errors.mean()[None]])
    expected = (1 - means / means.sum()) ** 3
    expected = expected / expected.mean()
    found = task(FULL.model_copy(update={"step_power": 20.0}), bands)
    assert found == pytest.approx(float(expected[:2] @ torch.tensor(weighted)), rel=1e-4)
    assert (expected[0] < expected[1]) == (errors[0] > errors[1])


def test_rates_fall_to_nothing(trainer_of, pool_from):
    trainer, rates = trainer_of(), []
    pool = pool_from(0)
    for _ in range(6):
        trainer.step(pool.next(), pool, Features())
        rates.append(trainer._optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(np.array(rates) / rates[0], np.arange(6, 0, -1) / 6)


@pytest.mark.parametrize("parameter", ["weight", "bias", "levels.log_scale", "log_act_scale"])
def test_what_is_no_number_stops_with_the_layers_name(trainer_of, pool_from, parameter):
    """Layers behind it are broken too; the first one is named."""
    trainer, pool = trainer_of(), pool_from(0)
    name = "mid_block.attentions.0.to_q"
    trainer.step(pool.next(), pool, Features())
    with torch.no_grad():
        trainer.student.layers[name].get_parameter(parameter).view(-1)[:] = float("nan")
    before = [p.detach().clone() for p in trainer.student.module.parameters()]
    with pytest.raises(TrainingDiverged, match=f"after 1 updates \\({name}\\)"):
        trainer.step(pool.next(), pool, Features())
    for one, other in zip(before, trainer.student.module.parameters(), strict=True):
        assert torch.equal(one.nan_to_num(7), other.nan_to_num(7))


class TwoProcesses(fixtures.OneProcess):
    """This one and another, whose loss is no number because of one of its layers."""

    num_processes = 2

    def __init__(self, broken_place):
        super().__init__()
        self.broken_place = broken_place

    def reduce(self, tensor, reduction):
        if reduction == "mean":
            return tensor * float("nan")
        return tensor + torch.nn.functional.one_hot(torch.tensor(self.broken_place), len(tensor))


def test_what_broke_in_another_process_is_said_of_it(trainer_of, pool_from):
    trainer, pool = trainer_of(), pool_from(0)
    name = list(trainer.student.layers)[3]
    trainer.processes = TwoProcesses(3)
    said = f"\\({name}\\).*not finite in another process.*delete its folder"
    with pytest.raises(TrainingDiverged, match=said):
        trainer.step(pool.next(), pool, Features())


def test_the_broken_layer_is_looked_for_in_the_precision_of_the_update(trainer_of, pool_from):
    trainer, pool, seen = trainer_of(), pool_from(0), []
    trainer.processes.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    trainer.student.layers["conv_in"].register_forward_hook(
        lambda *_: seen.append(torch.is_autocast_enabled("cpu"))
    )
    batch = pool.next()
    with pytest.raises(TrainingDiverged):
        trainer.step(replace(batch, target=batch.target * float("nan")), pool, Features())
    assert seen == [True, True], "once in the update, once in the diagnosis"


def test_what_breaks_outside_the_layers_is_said(trainer_of, pool_from):
    trainer, pool = trainer_of(), pool_from(0)
    batch = pool.next()
    broken = replace(batch, target=batch.target * float("nan"))
    with pytest.raises(TrainingDiverged, match=r"\(the loss\).*Every layer's output is finite"):
        trainer.step(broken, pool, Features())


@pytest.mark.parametrize("name", ["mid_block.attentions.0.to_q", "conv_out"])
def test_a_gradient_that_is_no_number_changes_nothing(trainer_of, pool_from, name):
    """The layer where it breaks is named, not those before it that it breaks too."""
    trainer, pool = trainer_of(), pool_from(0)
    layer = trainer.student.layers[name]
    layer.register_full_backward_pre_hook(lambda _, grads: tuple(g * np.nan for g in grads))
    before = [p.detach().clone() for p in trainer.student.module.parameters()]
    said = f"or its gradient is no number.*\\({name}\\).*gradients are not"
    with pytest.raises(TrainingDiverged, match=said):
        trainer.step(pool.next(), pool, Features())
    for one, other in zip(before, trainer.student.module.parameters(), strict=True):
        assert torch.equal(one, other)


def changed(state, **relation):
    return replace(state, relation={**state.relation, **relation})


STATES_OF_OTHERS = {
    "run": ("none", lambda state: replace(state, run="another")),
    "parameters": ("none", lambda state: replace(state, parameters={})),
    "more updates": ("none", lambda state: replace(state, records=state.records * 2)),
    "relation without one": ("none", lambda state: changed(state, teacher=torch.ones(1))),
    "no memory": ("memory", lambda state: replace(state, relation={})),
    "no features": ("time-smoothed", lambda state: replace(state, relation={})),
    "another relation": ("memory", lambda state: changed(state, teacher=torch.ones(1))),
    "smaller memory": ("memory", lambda state: changed(state, pixels=torch.zeros(3, 29, 8))),
    "flat memory": ("memory", lambda state: changed(state, pixels=torch.zeros(90))),
    "narrow memory": ("memory", lambda state: changed(state, pixels=torch.zeros(3, 30, 2))),
    "infinite memory": (
        "memory",
        lambda state: changed(state, pixels=state.relation["pixels"] * torch.inf),
    ),
    "negative counts": ("memory", lambda state: changed(state, written=-torch.ones(3).long())),
    "real counts": ("memory", lambda state: changed(state, written=torch.ones(3))),
    "few counts": ("memory", lambda state: changed(state, written=torch.ones(2).long())),
    "few features": ("time-smoothed", lambda state: changed(state, student=torch.ones(1, 64, 8))),
    "whole features": (
        "time-smoothed",
        lambda state: changed(state, student=state.relation["student"].long()),
    ),
}


@pytest.mark.parametrize(("relation", "damage"), STATES_OF_OTHERS.values(), ids=STATES_OF_OTHERS)
def test_a_state_that_is_not_of_the_run_is_refused(
    trainer_of, pool_from, tmp_path, relation, damage
):
    file, trainer = tmp_path / "state.safetensors", trainer_of(relation=relation)
    with pytest.raises(Interrupted):
        train(trainer, pool_from, file, StopsAt(4))
    write_state(file, damage(trainer.state()))
    with pytest.raises(TrainingStateError) as caught:
        train(trainer_of(relation=relation), pool_from, file, fixtures.SilentProgress())
    assert caught.value.where == str(file)


def test_a_state_of_another_recipe_is_refused(trainer_of):
    with pytest.raises(TrainingStateError, match="another run, model or recipe"):
        trainer_of(LOW_RANK).load(trainer_of().state())


def test_parameters_without_a_gradient_have_moments_too(trainer_of, pool_from):
    """So that a state without some is known to be damaged."""
    trainer = trainer_of()
    batch = (pool := pool_from(0)).next()
    trainer.step(batch, pool, lambda: None)
    del trainer._optimizer.state[trainer._named[(name := next(iter(trainer._named)))]]
    first, second = trainer.state().moments[name]
    assert not first.any()
    assert not second.any()


def test_saves_take_little_of_a_runs_time(trainer_of, pool_from, tmp_path, monkeypatch):
    """A save of 4 seconds, and updates of 9: one is due after 60, the next 80 after that."""
    clock, saves = [0.0], []

    class Hours(fixtures.SilentProgress):
        def advance(self, parts: int = 1) -> None:
            clock[0] += 9

    def slow_save(_file, state):
        saves.append(len(state.records))
        clock[0] += 4

    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(loop, "write_state", slow_save)
    many = FULL.model_copy(update={"updates": 20})
    train(trainer_of(many), pool_from, tmp_path / "state.safetensors", Hours())
    assert saves == [7, 16, 20]


def test_states_are_read_as_written(trainer_of, tmp_path):
    """Also one before the first update, which has no moments yet."""
    file = tmp_path / "state.safetensors"
    trainer = trainer_of()
    write_state(file, trainer.state())
    state = read_state(file)
    assert state.records == ()
    assert state.moments == {}
    assert state.parameters.keys() == trainer.state().parameters.keys()


def test_the_bias_of_the_prediction_is_what_is_missed(trainer_of, teacher, config, pool_from):
    """A student whose last layer is off by a constant is off by that at every timestep."""
    plain, shifted = trainer_of().student, trainer_of().student
    with torch.no_grad():
        shifted.layers["conv_out"].bias += 0.25
    one, other = (
        fit_output_bias(student, config, pool_from(0), fixtures.SilentProgress())
        for student in (plain, shifted)
    )
    assert one.shape == (fixtures.NUM_STEPS, 2)
    assert one.dtype == np.float32
    np.testing.assert_allclose(other - one, -0.25, atol=1e-5)
