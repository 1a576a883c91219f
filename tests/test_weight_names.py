"""Which files are weights, and which of them are preferred."""

import pytest

from mpq_export.weight_names import files_of, heads, parse_weight_name

STEM = "diffusion_pytorch_model"


@pytest.mark.parametrize(
    ("name", "variant", "is_shard", "is_index"),
    [
        (f"{STEM}.safetensors", None, False, False),
        (f"{STEM}.bin", None, False, False),
        (f"{STEM}.fp16.safetensors", "fp16", False, False),
        (f"{STEM}.non_ema.bin", "non_ema", False, False),
        (f"{STEM}-00001-of-00002.safetensors", None, True, False),
        (f"{STEM}.fp16-00001-of-00002.safetensors", "fp16", True, False),
        (f"{STEM}-00001-of-00002.fp16.safetensors", "fp16", True, False),
        (f"{STEM}.safetensors.index.json", None, False, True),
        (f"{STEM}.safetensors.index.fp16.json", "fp16", False, True),
        (f"{STEM}.fp16.safetensors.index.json", "fp16", False, True),
        (f"{STEM}.bin.index.json", None, False, True),
    ],
)
def test_names_are_understood(name, variant, is_shard, is_index):
    parsed = parse_weight_name(name)
    assert parsed is not None
    assert (parsed.stem, parsed.variant, parsed.is_shard, parsed.is_index) == (
        STEM, variant, is_shard, is_index,
    )  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.onnx", "a.b.c.safetensors", "../x.safetensors", "x.safetensors\n"],
)
def test_other_files_are_not_weights(name):
    assert parse_weight_name(name) is None


def test_the_preferred_come_first():
    best_first = [
        f"{STEM}.safetensors",
        f"{STEM}.safetensors.index.json",
        f"{STEM}.bin",
        f"{STEM}.bin.index.json",
        f"{STEM}.fp16.safetensors",
        f"{STEM}.fp16.bin",
    ]
    names = [*sorted(best_first), "model.safetensors", f"{STEM}-1-of-2.safetensors", "config.json"]
    assert [head.name for head in heads(names, STEM)] == best_first


def test_an_index_comes_with_its_shards():
    names = [
        f"{STEM}.fp16.safetensors.index.json",
        f"{STEM}.fp16-00001-of-00002.safetensors",
        f"{STEM}.fp16-00002-of-00002.safetensors",
        f"{STEM}-00001-of-00002.safetensors",
        f"{STEM}.fp16-00001-of-00002.bin",
    ]
    (head,) = heads(names, STEM)
    assert files_of(head, names) == names[:3]
