"""Reference files: written, read back, and refused where anything is not right."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from mpq_export.errors import UserError
from mpq_export.evaluation.feature_blocks import BLOCKS, FeatureBlocks
from mpq_export.evaluation.frechet import FeatureStatistics
from mpq_export.evaluation.reference import (
    FULL_PRECISION,
    Drawn,
    DrawnBy,
    Reference,
    ReferenceFileError,
    read_part,
    read_reference,
    write_reference,
)

DRAWN = Drawn(
    by=DrawnBy.CHECKPOINT, model="tiny", model_config_sha256="0" * 64, num_images=20, num_steps=3,
    seed=2**63 - 1, batch=16,
    scheduler={"_class_name": "DDIMScheduler", "beta_end": 0.1, "text": "Grüße"},
    prompts=["a fox", ""], guidance=7.5,
)  # fmt: skip


def reference(count=20):
    rng = np.random.default_rng(0)
    return Reference(
        DRAWN,
        rng.integers(0, 256, (4, 3, 8, 8), np.uint8),
        "Classifier 0123",
        FeatureStatistics.of(rng.normal(size=(count, 5))),
        FeatureStatistics.of(rng.normal(size=(7, 5))),
        0.95,
    )


def assert_same(one, other):
    assert (one.drawn, one.extractor, one.accuracy) == (
        other.drawn,
        other.extractor,
        other.accuracy,
    )
    np.testing.assert_array_equal(one.shown, other.shown)
    for mine, theirs in ((one.images, other.images), (one.data, other.data)):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert mine.count == theirs.count
            np.testing.assert_array_equal(mine.mean, theirs.mean)
            np.testing.assert_array_equal(mine.scatter, theirs.scatter)


def test_a_reference_is_read_back_as_it_was(tmp_path):
    for name, written in (
        ("all", reference()),
        ("no data", replace(reference(), data=None, accuracy=None)),
        ("no features", Reference(DRAWN, reference().shown)),
    ):
        write_reference(tmp_path / name, written)
        assert_same(read_reference(tmp_path / name), written)


def test_the_file_is_the_same_whenever_it_is_written(tmp_path):
    for name in "ab":
        write_reference(tmp_path / name, reference())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_part_is_no_reference(tmp_path):
    write_reference(tmp_path / "f", reference(count=19))
    assert read_part(tmp_path / "f").images.count == 19
    with pytest.raises(ReferenceFileError, match="19 of 20 images"):
        read_reference(tmp_path / "f")


def changed(path, tensors=None, **header):
    """A written file with other tensors (None: removed) and another header."""
    write_reference(path, reference())
    with safe_open(path, "numpy") as file:
        data = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = json.loads(file.metadata()["mpq_reference"])
    data = {name: value for name, value in (data | (tensors or {})).items() if value is not None}
    save_file(data, path, {"mpq_reference": json.dumps(found | header)})
    return path


NOT_SYMMETRIC = np.eye(5) + np.eye(5, k=1)


@pytest.mark.parametrize(
    ("tensors", "header", "why"),
    [
        ({"images.mean": None}, {}, "not whole"),
        ({"images.scatter": np.eye(4)}, {}, r"no float64 \[F\]"),
        ({"images.mean": np.zeros(5, np.float32)}, {}, r"no float64 \[F\]"),
        ({"images.mean": np.full(5, np.nan)}, {}, "not finite"),
        ({"images.scatter": NOT_SYMMETRIC}, {}, "scatter"),
        ({"images.scatter": -np.eye(5)}, {}, "scatter"),
        ({"data.mean": np.zeros(4), "data.scatter": np.eye(4)}, {}, "different widths"),
        ({"shown": None}, {}, "shown"),
        ({"shown": np.zeros((65, 1, 2, 2), np.uint8)}, {}, "shown"),
        ({"shown": np.zeros((4, 8, 8), np.uint8)}, {}, "shown"),
        ({"more": np.zeros(1)}, {}, "more"),
        ({}, {"version": 4}, "version 4"),
        ({}, {"counts": {}}, "not whole"),
        ({}, {"counts": {"images": 20, "data": 1}}, "two images"),
        ({}, {"extractor": None}, "name"),
        ({}, {"accuracy": 2.0}, "less than or equal"),
        ({}, {"unknown": 1}, "unknown"),
        ({}, {"drawn": {"model": "x"}}, "drawn"),
    ],
)
def test_what_is_not_right_is_refused(tmp_path, tensors, header, why):
    with pytest.raises(ReferenceFileError, match=why):
        read_reference(changed(tmp_path / "f", tensors, **header))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("model", "by"),
    [(FULL_PRECISION, DrawnBy.CHECKPOINT), ("W4A8 bundle", DrawnBy.BUNDLE), ("", DrawnBy.BUNDLE)],
)
def test_of_former_versions_the_models_name_says_who_drew(tmp_path, version, model, by):
    drawn = DRAWN.model_dump(exclude={"by"}) | {"model": model}
    assert read_reference(changed(tmp_path / "f", version=version, drawn=drawn)).drawn.by is by


def test_who_drew_is_said_by_this_version(tmp_path):
    drawn = DRAWN.model_dump(exclude={"by"})
    with pytest.raises(ReferenceFileError, match=r"drawn\.by"):
        read_reference(changed(tmp_path / "f", drawn=drawn))
    with pytest.raises(ReferenceFileError, match=r"drawn\.by"):
        read_reference(changed(tmp_path / "f", drawn=drawn | {"by": "somebody"}))


def test_files_of_something_else_are_refused(tmp_path):
    (tmp_path / "text").write_text("no")
    (tmp_path / "empty").write_bytes(b"")
    save_file({"a": np.zeros(1)}, tmp_path / "tensors")
    for path in ("text", "empty", "tensors", "absent", "."):
        with pytest.raises(UserError):
            read_reference(tmp_path / path)
    with pytest.raises(ReferenceFileError):
        read_reference("/dev/zero")


def with_blocks():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(20, 5))
    blocks = FeatureBlocks.of(features, range(20))
    return replace(reference(), images=FeatureStatistics.of(features), blocks=blocks)


def test_blocks_are_read_back_and_may_be_missing(tmp_path):
    write_reference(tmp_path / "r", with_blocks())
    found = read_reference(tmp_path / "r").blocks
    for name in ("counts", "means", "scatters"):
        np.testing.assert_array_equal(getattr(found, name), getattr(with_blocks().blocks, name))
    write_reference(tmp_path / "r", reference())
    assert read_reference(tmp_path / "r").blocks is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks.count": None}, "not whole"),
        ({"images.mean": None, "images.scatter": None}, "not whole"),
        ({"blocks.count": np.ones(BLOCKS)}, "are no int64"),
        ({"blocks.count": np.ones(BLOCKS, np.int64)}, "other images"),
        ({"blocks.count": np.array([21, -1] + [0] * (BLOCKS - 2))}, "other images"),
        ({"blocks.mean": np.zeros((BLOCKS, 4))}, "are no int64"),
        ({"blocks.mean": np.full((BLOCKS, 5), np.inf)}, "not finite"),
        ({"blocks.scatter": np.triu(np.ones((BLOCKS, 5, 5)))}, "scatter of a block"),
        ({"blocks.scatter": np.zeros((1, 5, 5))}, "are no int64"),
        ({"blocks.more": np.zeros(1)}, "beside what it should"),
    ],
)
def test_blocks_that_are_none_are_refused(tmp_path, change, words):
    path = tmp_path / "r"
    write_reference(path, with_blocks())
    with safe_open(path, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = file.metadata()
    if "images.mean" in change:
        said = json.loads(header["mpq_reference"])
        del said["counts"]["images"]
        header = {"mpq_reference": json.dumps(said)}
    changed = {k: v for k, v in {**tensors, **change}.items() if v is not None}
    save_file(changed, path, metadata=header)
    with pytest.raises(ReferenceFileError, match=words):
        read_reference(path)
