"""Resampled features say what resampled images say."""

import pytest
import torch
from mpq_export.pipelines.ablation.resampling import frechet_difference_noise, frechet_noise
from mpq_export.pipelines.judge import ClassifierJudge


class Means(torch.nn.Module):
    """Features of an image: two of its pixels."""

    num_classes, num_features = 2, 2

    def features(self, images):
        return images[:, 0, 0, :2].double()


@pytest.fixture
def judge():
    return ClassifierJudge(Means(), torch.zeros(2, 1, 2, 2))


@pytest.fixture
def sets():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(300, 1, 2, 2, generator=generator) ** power for power in (1, 2, 3)]


def resampled(judge, images, reference):
    """The long way: every resample's images through the judge."""
    generator = torch.Generator().manual_seed(0)
    places = [torch.randint(300, (300,), generator=generator) for _ in range(20)]
    return torch.tensor([judge.frechet(images[rows], reference[rows]) for rows in places])


def test_noise_of_a_distance(judge, sets):
    images, reference, _ = sets
    expected = float(resampled(judge, images, reference).std())
    assert frechet_noise(judge, images, reference) == pytest.approx(expected, rel=1e-4)


def test_noise_of_a_difference_takes_the_same_places(judge, sets):
    one, other, reference = sets
    apart = resampled(judge, one, reference) - resampled(judge, other, reference)
    found = frechet_difference_noise(judge, one, other, reference)
    assert found == pytest.approx(float(apart.std()), rel=1e-4)
    assert frechet_difference_noise(judge, one, one, reference) == 0
