"""The pool of trajectories: what batches hold, and that a seed and a number decide it."""

import fixtures
import pytest
import torch
from diffusers import DiTTransformer2DModel

from mpq_export.errors import RecipeError
from mpq_export.prediction import predict
from mpq_export.schedulers import build_scheduler
from mpq_export.training.seeds import derived_seed
from mpq_export.training.trajectories import full_precision_trajectory
from mpq_export.training.trajectory_pool import PoolSettings, TrajectoryPool

DDIM = {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}
PNDM = {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
SOLVER = {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}
EULER = {"_class_name": "EulerAncestralDiscreteScheduler"}
LEARNED = {"_class_name": "DDPMScheduler", "variance_type": "learned_range"}
STAGGERED = PoolSettings(groups=2, images_per_group=2, num_steps=4)


@pytest.fixture(scope="module")
def unet():
    return fixtures.tiny_unet()


@pytest.fixture(scope="module")
def dit():
    """It has a null label and a learned variance."""
    torch.manual_seed(0)
    return DiTTransformer2DModel(
        sample_size=8, in_channels=2, out_channels=4, num_layers=1, patch_size=2,
        num_attention_heads=2, attention_head_dim=6, num_embeds_ada_norm=10,
    ).eval()  # fmt: skip


def pool_of(model, settings=STAGGERED, scheduler=DDIM, **options):
    config = {**model.config, "_class_name": type(model).__name__}
    return TrajectoryPool(model, config, scheduler, settings, seed=5, **options)


def batches(pool, count):
    return [pool.next() for _ in range(count)]


def tensors(batch):
    return {
        name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)
    } | dict(batch.conditions)


def assert_same(one, other):
    assert one.update == other.update
    for (name, left), right in zip(tensors(one).items(), tensors(other).values(), strict=True):
        assert torch.equal(left, right), name


@pytest.mark.parametrize("scheduler", [DDIM, PNDM, SOLVER, EULER], ids=lambda s: s["_class_name"])
def test_a_group_walks_full_precision_trajectories(unet, scheduler):
    """Noise, labels, multistep memory and random steps are those of a trajectory of its seed."""
    pool = pool_of(unet, PoolSettings(1, 3, 4), scheduler)
    for number in range(2):
        steps = full_precision_trajectory(
            unet, unet.config | {"_class_name": "UNet2DModel"}, scheduler, 4, 3,
            derived_seed("trajectory", 5, 0, number),
        )  # fmt: skip
        for step in steps:
            batch = pool.next()
            assert batch.entries.tolist() == [step.entry] * 3
            assert batch.timesteps.tolist() == [float(step.timestep)] * 3
            assert torch.equal(batch.sample, step.sample)
            assert torch.equal(batch.conditions["class_labels"], step.conditions["class_labels"])
            torch.testing.assert_close(batch.prediction, step.prediction)
            assert batch.target is batch.prediction


@pytest.mark.parametrize("scheduler", [DDIM, PNDM, SOLVER, EULER], ids=lambda s: s["_class_name"])
@pytest.mark.parametrize("first", [1, 3, 11])
def test_a_resumed_pool_goes_on_with_the_same_bits(unet, scheduler, first):
    settings = PoolSettings(groups=3, images_per_group=2, num_steps=4)
    whole = batches(pool_of(unet, settings, scheduler), first + 3)[first:]
    resumed = batches(pool_of(unet, settings, scheduler, first_update=first), 3)
    for one, other in zip(whole, resumed, strict=True):
        assert_same(one, other)


def test_groups_are_spread_over_the_steps(unet):
    steps = [batch.steps.tolist() for batch in batches(pool_of(unet), 4)]
    assert steps == [[0, 0, 2, 2], [1, 1, 3, 3], [2, 2, 0, 0], [3, 3, 1, 1]]


def test_a_step_that_visits_a_timestep_again_has_its_entry(unet):
    settings = PoolSettings(groups=1, images_per_group=1, num_steps=4)
    seen = [batch.entries.tolist() for batch in batches(pool_of(unet, settings, PNDM), 6)]
    assert seen == [[0], [1], [1], [2], [3], [0]]


def test_every_round_has_its_own_noise_and_labels(unet):
    starts = [batch for batch in batches(pool_of(unet), 12) if 0 in batch.steps]
    fresh = [batch.sample[batch.steps == 0] for batch in starts]
    assert len(fresh) == 6
    assert all(not torch.equal(a, b) for i, a in enumerate(fresh) for b in fresh[:i])
    labels = torch.cat([batch.conditions["class_labels"][batch.steps == 0] for batch in starts])
    assert len(set(labels.tolist())) > 1


def test_a_group_is_the_same_in_any_number_of_processes(unet):
    settings = PoolSettings(groups=4, images_per_group=2, num_steps=4)
    whole = batches(pool_of(unet, settings), 6)
    parts = [batches(pool_of(unet, settings, rank=rank, world=2), 6) for rank in range(2)]
    for rank, part in enumerate(parts):
        for one, other in zip(whole, part, strict=True):
            rows = torch.tensor([0, 1, 4, 5]) + 2 * rank
            assert torch.equal(one.steps[rows], other.steps)
            assert torch.equal(
                one.conditions["class_labels"][rows], other.conditions["class_labels"]
            )
            for name in ("sample", "prediction", "features"):
                left, right = getattr(one, name)[rows], getattr(other, name)
                torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
            fresh = other.steps == 0
            assert torch.equal(one.sample[rows][fresh], other.sample[fresh])


def test_the_warm_up_stays_on_trajectories_and_is_walked_once(unet):
    pool = pool_of(unet)
    early = list(pool.warm_up())
    assert [batch.update for batch in early] == [-3, -2, -1]
    assert len(early) == pool.warm_up_updates
    config = unet.config | {"_class_name": "UNet2DModel"}
    for batch in early:
        assert torch.equal(
            batch.prediction,
            predict(unet, config, batch.sample, batch.timesteps, batch.conditions),
        )
        timesteps = torch.from_numpy(pool.schedule.timesteps)[batch.entries]
        assert torch.equal(timesteps.to(batch.timesteps.dtype), batch.timesteps)
    assert list(pool.warm_up()) == []
    assert_same(pool.next(), pool_of(unet).next())


def test_eta_adds_noise_that_a_resumed_pool_finds_again(unet):
    def third(eta, first=0):
        settings = PoolSettings(groups=1, images_per_group=2, num_steps=4, eta=eta)
        return batches(pool_of(unet, settings, first_update=first), 3 - first)[-1]

    assert torch.equal(third(0.0).sample, third(None).sample)
    assert not torch.allclose(third(1.0).sample, third(0.0).sample)
    assert_same(third(1.0), third(1.0, first=2))


def test_eta_is_refused_where_no_step_takes_it(unet):
    with pytest.raises(RecipeError, match="takes no eta"):
        pool_of(unet, PoolSettings(1, 1, 4, eta=0.5), PNDM)


def test_guided_trajectories_follow_the_guided_prediction(dit):
    settings = PoolSettings(groups=2, images_per_group=3, num_steps=4, guidance=3.0)
    pool = pool_of(dit, settings)
    one, two = batches(pool, 2)
    assert torch.equal(one.sample[:6], one.sample[6:])
    assert one.conditions["class_labels"][:6].tolist() == [10] * 6
    assert max(one.conditions["class_labels"][6:]) < 10
    assert one.features.shape == (12, 16, 12)
    plain, wanted = one.prediction.chunk(2)
    noise = plain[:, :2] + 3 * (wanted[:, :2] - plain[:, :2])
    torch.testing.assert_close(one.target[:, :2], noise)
    assert torch.equal(one.target[:, 2:], wanted[:, 2:])
    assert torch.equal(pool.combined(one.prediction), one.target)
    scheduler = build_scheduler(DDIM)
    scheduler.set_timesteps(4)
    stepped = scheduler.step(noise[:3], scheduler.timesteps[0], one.sample[:3]).prev_sample
    torch.testing.assert_close(two.sample[:3], stepped)


def test_guided_pools_resume_with_the_same_bits(dit):
    settings = PoolSettings(groups=2, images_per_group=1, num_steps=4, guidance=1.5)
    whole = batches(pool_of(dit, settings, LEARNED), 6)
    for one, other in zip(
        whole[4:], batches(pool_of(dit, settings, LEARNED, first_update=4), 2), strict=True
    ):
        assert_same(one, other)


def test_a_model_without_a_null_label_cannot_be_guided(unet):
    with pytest.raises(RecipeError, match="cannot be guided"):
        pool_of(unet, PoolSettings(1, 1, 4, guidance=2.0))


def test_given_conditions_are_chosen_in_pairs(unet):
    given = {"class_labels": torch.tensor([0, 0, 0, 1, 2, 3])}
    settings = PoolSettings(groups=2, images_per_group=2, num_steps=4, guidance=2.0)
    labels = pool_of(unet, settings, conditions=given).next().conditions["class_labels"]
    assert labels[:4].tolist() == [0] * 4
    assert set(labels[4:].tolist()) <= {1, 2, 3}
    assert labels[4] != labels[5]  # no row twice in a group while there are enough
    assert labels[6] != labels[7]
    with pytest.raises(RecipeError, match="not in pairs"):
        pool_of(unet, settings, conditions={"class_labels": torch.tensor([0, 1, 2])})


def test_groups_must_be_shared_evenly(unet):
    with pytest.raises(RecipeError, match="cannot be shared by 3 processes"):
        pool_of(unet, STAGGERED, world=3)


@pytest.mark.parametrize(
    "wrong", [{"groups": 0}, {"images_per_group": 0}, {"guidance": float("nan")}, {"eta": -1.0}]
)
def test_settings_are_checked(wrong):
    with pytest.raises(RecipeError):
        PoolSettings(**{"groups": 1, "images_per_group": 1, "num_steps": 4} | wrong)


def test_batches_carry_no_graph_and_leave_no_hook(unet):
    batch = pool_of(unet).next()
    assert not any(value.requires_grad for value in tensors(batch).values())
    assert not unet.conv_norm_out._forward_pre_hooks


def test_a_teacher_whose_weights_are_brought_when_needed_says_the_same(unet):
    from accelerate import cpu_offload

    offloaded, device = fixtures.tiny_unet(), torch.device("cpu")
    cpu_offload(offloaded, device)
    assert next(offloaded.parameters()).is_meta
    pool = pool_of(offloaded, device=device)
    for expected in batches(pool_of(unet), 3):
        assert_same(pool.next(), expected)
