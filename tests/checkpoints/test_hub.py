"""Hub ids, over a cache as huggingface_hub lays it out; the network is never reached."""

import os
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from mpq_export.checkpoints import hub, is_bundle, load_checkpoint
from mpq_export.checkpoints.hub import HubId, hub_id, needed_files
from mpq_export.errors import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/tiny-diffusion"


def fill_cache(cache, content, repo=REPO):
    """Blobs, and a snapshot of links to them, for branch main."""
    base = cache / f"models--{repo.replace('/', '--')}"
    snapshot, blobs = base / "snapshots" / COMMIT, base / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(p for p in content.rglob("*") if p.is_file())):
        link = snapshot / path.relative_to(content)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blobs / f"{number:040}")
        link.symlink_to(Path(os.path.relpath(blobs / f"{number:040}", link.parent)))
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text(COMMIT)
    return snapshot


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize("wanted", [REPO, f"{REPO}@main", f"{REPO}@{COMMIT}"])
def test_a_cached_pipeline(cache, pipeline_folder, wanted):
    snapshot = fill_cache(cache, pipeline_folder)
    checkpoint = load_checkpoint(wanted)
    assert checkpoint.source == f"{REPO}@{COMMIT}"
    assert checkpoint.pipeline == snapshot
    assert checkpoint.model_config["_class_name"] == "UNet2DModel"
    (note,) = checkpoint.notes
    assert "in the cache is used" in note
    assert not is_bundle(wanted)


def test_a_cached_component(cache, pipeline_folder, tmp_path):
    shutil.copytree(pipeline_folder / "unet", tmp_path / "one")
    shutil.copytree(pipeline_folder / "scheduler", tmp_path / "one" / "scheduler")
    fill_cache(cache, tmp_path / "one")
    checkpoint = load_checkpoint(REPO)
    assert checkpoint.pipeline is None
    assert checkpoint.source == f"{REPO}@{COMMIT}"


def test_what_is_not_cached_says_what_to_do(cache):
    with pytest.raises(CheckpointError, match="not in the cache and cannot be downl") as caught:
        load_checkpoint(REPO)
    assert "HF_HUB_OFFLINE" in caught.value.fix
    assert "path of a downloaded copy" in caught.value.fix


def test_another_revision_is_not_cached(cache, pipeline_folder):
    fill_cache(cache, pipeline_folder)
    with pytest.raises(CheckpointError, match="not in the cache"):
        load_checkpoint(f"{REPO}@other")


def test_a_snapshot_without_its_weights(cache, pipeline_folder):
    snapshot = fill_cache(cache, pipeline_folder)
    (snapshot / "unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        load_checkpoint(REPO)


def test_a_repository_of_another_form(cache, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "model.ckpt").write_bytes(b"x")
    fill_cache(cache, tmp_path / "one")
    with pytest.raises(CheckpointError, match=r"neither model_index\.json nor config\.json"):
        load_checkpoint(REPO)


# --- what is asked of the hub -----------------------------------------------------------------


class Hub:
    """A hub that records what is downloaded from it into a folder that is already whole."""

    def __init__(self, snapshot, fails_at=None):
        self.snapshot, self.asked, self.fails_at = snapshot, [], fails_at

    def download(self, repo, revision, allow_patterns):
        self.asked.append((repo, revision, allow_patterns))
        if len(self.asked) == self.fails_at:
            raise OSError("No space left on device")
        return str(self.snapshot)

    def list_repo_files(self, repo, revision):
        found = [str(p.relative_to(self.snapshot)) for p in self.snapshot.rglob("*") if p.is_file()]
        return [*found, "code.py", "unet/code.py", "unet/diffusion_pytorch_model.fp16.safetensors"]


@pytest.fixture
def reached(cache, pipeline_folder, monkeypatch):
    """A hub that answers."""
    reached = Hub(fill_cache(cache, pipeline_folder))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", reached.download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: reached)
    return reached


def test_only_what_is_needed_is_downloaded(reached):
    checkpoint = load_checkpoint(f"{REPO}@main")
    assert checkpoint.notes == ()
    first, second = reached.asked
    assert first == (REPO, "main", ["model_index.json", "config.json"])
    assert second == (
        REPO,
        COMMIT,
        [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
        ],
    )


@pytest.mark.parametrize(
    ("step", "message"), [(1, "cannot be downloaded"), (2, "downloaded whole")]
)
def test_a_download_that_fails(reached, step, message):
    reached.fails_at = step
    with pytest.raises(CheckpointError, match=f"{message}.*No space left"):
        load_checkpoint(REPO)


def test_the_files_of_stable_diffusion():
    kept = {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "tokenizer/special_tokens_map.json",
    }
    others = {
        "README.md", ".gitattributes", "v1-5-pruned.ckpt", "v1-inference.yaml", "pipeline.py",
        "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors", "unet/code.py", "unet/sub/config.json",
        "text_encoder/pytorch_model.bin", "text_encoder/model.fp16.safetensors",
        "text_encoder/flax_model.msgpack", "vae/diffusion_pytorch_model.bin",
        "safety_checker/model.safetensors", "safety_checker/config.json",
    }  # fmt: skip
    index = {
        "_class_name": "StableDiffusionPipeline",
        "safety_checker": [None, None],
        "requires_safety_checker": True,
        **{name: ["x", "Y"] for name in ("scheduler", "unet", "vae", "text_encoder", "tokenizer")},
    }
    assert set(needed_files(kept | others, index)) == kept


def test_shards_and_pickles_where_there_is_nothing_else():
    names = {
        "model_index.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
        "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
        "text_encoder/model.safetensors.index.json",
        "text_encoder/model-00001-of-00001.safetensors",
        "tokenizer/spiece.model",
    }
    index = {name: ["x", "Y"] for name in ("transformer", "vae", "text_encoder", "tokenizer")}
    assert set(needed_files(names, index)) == names


def test_variants_where_there_is_nothing_else():
    names = {"config.json", "diffusion_pytorch_model.fp16.safetensors", "x.py", "scheduler/a.json"}
    assert set(needed_files(names, None)) == names - {"x.py"}


def test_components_outside_are_refused():
    with pytest.raises(CheckpointError, match="not a folder's name"):
        needed_files({"a.json"}, {"..": ["x", "Y"]})


# --- what a hub id is -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CompVis/stable-diffusion-v1-4", HubId("CompVis/stable-diffusion-v1-4", None)),
        ("a/b@fp16", HubId("a/b", "fp16")),
        ("a/b@refs/pr/3", HubId("a/b", "refs/pr/3")),
        ("a/b.c_d", HubId("a/b.c_d", None)),
    ],
)
def test_hub_ids(cache, text, expected):
    assert hub_id(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    ["a", "a/b/c", "/a/b", "./a", "../a", "a/..", "a/../b", "a/b@", "a/b@../x", "a/b@x/../y",
     "~/a", "a b/c", "a/b\n", "", "a\\b/c", "https://a/b", "here/b", "here/b@c"],
)  # fmt: skip
def test_paths_are_not_hub_ids(cache, text):
    Path("here").mkdir()
    assert hub_id(text) is None


def test_a_misspelt_path_is_not_asked_for(cache, monkeypatch):
    monkeypatch.setattr(hub, "snapshot", lambda _: pytest.fail("the hub was asked"))
    Path("out").mkdir()
    for path in ("out/nothing", "nothing", Path("a/b")):
        with pytest.raises(CheckpointError, match="no such checkpoint"):
            load_checkpoint(path)
