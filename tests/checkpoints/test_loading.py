"""Full-precision models in: every accepted form gives the same model, all else is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mpq_export.checkpoints import Checkpoint, is_bundle, load_checkpoint
from mpq_export.errors import CheckpointError, UserError
from mpq_export.files import write_json

WEIGHTS = "diffusion_pytorch_model.safetensors"
State = dict[str, torch.Tensor]


@pytest.fixture
def pipeline(pipeline_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline that a test may change."""
    return Path(shutil.copytree(pipeline_folder, tmp_path / "pipeline"))


@pytest.fixture(scope="module")
def state(pipeline_folder: Path) -> State:
    """The tiny model's tensors."""
    return load_file(pipeline_folder / "unet" / WEIGHTS)


def change_json(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads(path.read_text())
    edit(data)
    write_json(path, data)


def assert_is_the_tiny_model(checkpoint: Checkpoint, state: State) -> None:
    assert not checkpoint.model.training
    own = checkpoint.model.state_dict()
    assert own.keys() == state.keys()
    for name, value in state.items():
        assert own[name].dtype == torch.float32
        assert torch.equal(own[name], value), name
    assert not any(p.requires_grad for p in checkpoint.model.parameters())
    assert checkpoint.model_config["_class_name"] == "UNet2DModel"
    assert checkpoint.scheduler_config["_class_name"] == "DDIMScheduler"


# --- folders ----------------------------------------------------------------------------------


def test_a_pipeline_folder(pipeline_folder: Path, state: State) -> None:
    checkpoint = load_checkpoint(pipeline_folder)
    assert_is_the_tiny_model(checkpoint, state)
    assert checkpoint.source == pipeline_folder.name
    assert checkpoint.family is None


def test_a_pipeline_of_a_known_family(pipeline: Path) -> None:
    change_json(pipeline / "model_index.json", lambda d: d.update(_class_name="DigitsPipeline"))
    assert load_checkpoint(pipeline).family == "digits"


def test_a_component_folder_with_the_scheduler_beside_it(
    pipeline_folder: Path, state: State
) -> None:
    checkpoint = load_checkpoint(pipeline_folder / "unet")
    assert_is_the_tiny_model(checkpoint, state)
    assert checkpoint.source == "unet"


def test_a_component_folder_with_the_scheduler_inside(pipeline: Path, state: State) -> None:
    shutil.move(pipeline / "scheduler", pipeline / "unet" / "scheduler")
    assert_is_the_tiny_model(load_checkpoint(pipeline / "unet"), state)


@pytest.mark.parametrize("given", ["moved", "moved/scheduler_config.json"])
def test_a_scheduler_of_the_users_choice(pipeline: Path, state: State, given: str) -> None:
    shutil.copytree(pipeline / "scheduler", pipeline / "moved")
    change_json(pipeline / "moved/scheduler_config.json", lambda d: d.update(steps_offset=1))
    checkpoint = load_checkpoint(pipeline, scheduler_path=pipeline / given)
    assert_is_the_tiny_model(checkpoint, state)
    assert checkpoint.scheduler_config["steps_offset"] == 1


def test_sharded_weights(pipeline: Path, state: State) -> None:
    from diffusers import UNet2DModel

    model = UNet2DModel.from_pretrained(pipeline / "unet")
    shutil.rmtree(pipeline / "unet")
    model.save_pretrained(pipeline / "unet", max_shard_size="60KB")
    assert len(list((pipeline / "unet").glob("*-of-*.safetensors"))) > 1
    assert_is_the_tiny_model(load_checkpoint(pipeline), state)


def test_a_component_folder_with_a_pickle(pipeline: Path, state: State) -> None:
    (pipeline / "unet" / WEIGHTS).unlink()
    torch.save(state, pipeline / "unet" / "diffusion_pytorch_model.bin")
    assert_is_the_tiny_model(load_checkpoint(pipeline), state)


def test_half_precision_weights_are_widened(pipeline: Path, state: State) -> None:
    save_file({k: v.half() for k, v in state.items()}, pipeline / "unet" / WEIGHTS)
    checkpoint = load_checkpoint(pipeline)
    for name, value in checkpoint.model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[name].half().float())


def test_nothing_at_the_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "nothing")


def _unlink(name: str) -> Callable[[Path], None]:
    return lambda pipeline: (pipeline / name).unlink()


def _config(**change: Any) -> Callable[[Path], None]:
    return lambda p: change_json(p / "unet/config.json", lambda data: data.update(change))


def _index(**change: Any) -> Callable[[Path], None]:
    return lambda p: change_json(p / "model_index.json", lambda data: data.update(change))


def _without_denoiser(pipeline: Path) -> None:
    change_json(pipeline / "model_index.json", lambda data: data.pop("unet"))


def _state(edit: Callable[[State], Any]) -> Callable[[Path], None]:
    def apply(pipeline: Path) -> None:
        path = pipeline / "unet" / WEIGHTS
        state = load_file(path)
        edit(state)
        save_file(state, path)

    return apply


def _bytes(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    return lambda p: (p / name).write_bytes(edit((p / name).read_bytes()))


def _fill(value: float) -> Callable[[State], Any]:
    return lambda state: state["conv_in.bias"].__setitem__(0, value)


PIPELINE_BREAKAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no denoiser listed": (_without_denoiser, "no denoiser"),
    "no denoiser folder": (lambda p: shutil.rmtree(p / "unet"), "no denoiser"),
    "a malformed component": (_index(vae=[]), "'vae' is malformed"),
    "a component outside": (_index(**{"../vae": ["a", "B"]}), "not a folder's name"),
    "an index that is not JSON": (_bytes("model_index.json", lambda _: b"{"), "not valid JSON"),
    "no config": (_unlink("unet/config.json"), "has no config.json"),
    "a config that is not JSON": (_bytes("unet/config.json", lambda d: d[:-3]), "not valid JSON"),
    "no weights": (_unlink(f"unet/{WEIGHTS}"), "has no weights"),
    "no class": (_config(_class_name=None), "class 'None' are not supported"),
    "another class": (_config(_class_name="AutoencoderKL"), "'AutoencoderKL' are not supported"),
    "a class that is a module's attribute": (_config(_class_name="os"), "'os' are not supported"),
    "other block widths": (_config(block_out_channels=[8, 12]), "size mismatch"),
    "one block less": (
        _config(
            block_out_channels=[8], down_block_types=["DownBlock2D"], up_block_types=["UpBlock2D"]
        ),
        "do not fit",
    ),
    "more layers than there are tensors": (_config(layers_per_block=10**9), "builds no model"),
    "nested lists of layers": (_config(layers_per_block=[[9**9]]), "builds no model"),
    "more layers": (_config(layers_per_block=2), "do not fit"),
    "block types that do not exist": (_config(down_block_types=["A", "B"]), "builds no model"),
    "fewer block types than blocks": (_config(down_block_types=["DownBlock2D"]), "builds no model"),
    "groups that do not divide": (_config(norm_num_groups=3), "builds no model"),
    "groups of 0": (_config(norm_num_groups=0), "builds no model"),
    "no blocks": (
        _config(block_out_channels=[], down_block_types=[], up_block_types=[]), "builds no model"
    ),
    "cut weights": (_bytes(f"unet/{WEIGHTS}", lambda d: d[: len(d) // 2]), "cannot be read"),
    "a cut header": (_bytes(f"unet/{WEIGHTS}", lambda d: d[:50]), "cannot be read"),
    "empty weights": (_bytes(f"unet/{WEIGHTS}", lambda _: b""), "cannot be read"),
    "a tensor is missing": (_state(lambda s: s.pop("conv_in.bias")), r"1 tensors are missing \(co"),
    "a tensor too many": (
        _state(lambda s: s.update(extra=torch.zeros(1))), r"1 are not expected \(extra\)"
    ),
    "a tensor of another shape": (
        _state(lambda s: s.update({"conv_in.bias": torch.zeros(9)})), "mismatch for conv_in.bias"
    ),
    "a weight NaN": (_state(_fill(float("nan"))), "not finite.*In conv_in.bias"),
    "an infinite weight": (_state(_fill(float("inf"))), "not finite.*In conv_in.bias"),
    "no scheduler": (lambda p: shutil.rmtree(p / "scheduler"), "has no scheduler"),
    "a scheduler that is not JSON": (
        _bytes("scheduler/scheduler_config.json", lambda _: b"{"), "not valid JSON"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PIPELINE_BREAKAGES)
def test_a_broken_pipeline_is_refused(pipeline: Path, case: str) -> None:
    edit, message = PIPELINE_BREAKAGES[case]
    edit(pipeline)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(pipeline)


def test_a_whole_pipeline_gives_its_denoiser_and_its_folder(pipeline: Path, state: State) -> None:
    _index(vae=["diffusers", "AutoencoderKL"], text_encoder=["transformers", "CLIPTextModel"])(
        pipeline
    )
    checkpoint = load_checkpoint(pipeline)
    assert_is_the_tiny_model(checkpoint, state)
    assert checkpoint.pipeline == pipeline
    assert load_checkpoint(pipeline / "unet").pipeline is None


def test_components_that_are_absent_do_not_matter(pipeline: Path, state: State) -> None:
    _index(safety_checker=[None, None], requires_safety_checker=False)(pipeline)
    assert_is_the_tiny_model(load_checkpoint(pipeline), state)


def test_a_scheduler_that_is_not_there(pipeline: Path) -> None:
    with pytest.raises(CheckpointError, match="has no scheduler"):
        load_checkpoint(pipeline, scheduler_path=pipeline / "nowhere.json")


# --- single files -----------------------------------------------------------------------------


def load_single(pipeline: Path, path: Path) -> Checkpoint:
    """A file with the tiny model's config and scheduler."""
    return load_checkpoint(path, pipeline / "unet/config.json", pipeline / "scheduler")


def wrapped(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


FILE_FORMS: dict[str, tuple[str, Callable[[State], Any]]] = {
    "plain": ("m.pt", lambda s: s),
    "pth": ("m.pth", lambda s: s),
    "bin": ("m.bin", lambda s: s),
    "ordered": ("m.pt", OrderedDict),
    "lightning": ("m.ckpt", lambda s: {"state_dict": s, "epoch": 3, "lr": 1e-4}),
    "data parallel": ("m.pt", lambda s: wrapped(s, "module.")),
    "compiled": ("m.pt", lambda s: wrapped(s, "_orig_mod.")),
    "compiled, then parallel": ("m.pt", lambda s: wrapped(s, "module._orig_mod.")),
    "parallel, then compiled": ("m.pt", lambda s: wrapped(s, "_orig_mod.module.")),
    "in a state_dict and parallel": ("m.pt", lambda s: {"state_dict": wrapped(s, "module.")}),
}


@pytest.mark.parametrize("case", FILE_FORMS)
def test_pickled_state_dicts(
    pipeline_folder: Path, tmp_path: Path, state: State, case: str
) -> None:
    name, form = FILE_FORMS[case]
    torch.save(form(state), tmp_path / name)
    checkpoint = load_single(pipeline_folder, tmp_path / name)
    assert_is_the_tiny_model(checkpoint, state)
    assert (checkpoint.source, checkpoint.family) == (name, None)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_files(
    pipeline_folder: Path, tmp_path: Path, state: State, prefix: str
) -> None:
    save_file(wrapped(state, prefix), tmp_path / "m.safetensors")
    assert_is_the_tiny_model(load_single(pipeline_folder, tmp_path / "m.safetensors"), state)


def test_a_single_file_finds_the_scheduler_beside_it(pipeline: Path, state: State) -> None:
    save_file(state, pipeline / "m.safetensors")
    checkpoint = load_checkpoint(pipeline / "m.safetensors", pipeline / "unet/config.json")
    assert_is_the_tiny_model(checkpoint, state)


def test_a_single_file_needs_its_config(pipeline_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="does not say which model") as caught:
        load_checkpoint(pipeline_folder / "unet" / WEIGHTS)
    assert "--config" in caught.value.fix


def test_pipes_are_not_waited_for(pipeline: Path) -> None:
    for name in ("m.safetensors", "m.pt", "config.json"):
        os.mkfifo(pipeline / name)
    for name in ("m.safetensors", "m.pt"):
        with pytest.raises(CheckpointError, match="not a regular file"):
            load_checkpoint(pipeline / name, pipeline / "scheduler/scheduler_config.json")
    with pytest.raises(CheckpointError, match="not a regular file"):
        load_checkpoint(pipeline / "unet" / WEIGHTS, pipeline / "config.json")


@pytest.mark.parametrize("form", [str, Path])
def test_names_that_no_file_system_takes(form: Callable[[str], str | Path]) -> None:
    for name in ("x" * 5000, "owner/" + "x" * 5000):
        with pytest.raises(CheckpointError, match=r"cannot be read.*File name too long"):
            load_checkpoint(form(name))
        with pytest.raises(CheckpointError, match=r"cannot be read.*File name too long"):
            is_bundle(form(name))


def test_a_config_that_is_not_there(pipeline_folder: Path, tmp_path: Path) -> None:
    for config in (tmp_path / "no.json", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_checkpoint(pipeline_folder / "unet" / WEIGHTS, config)


@pytest.mark.parametrize(
    "change",
    [
        {"down_block_types": ["A", "B"]},
        {"down_block_types": ["DownBlock2D"]},
        {"norm_num_groups": 3},
        {"norm_num_groups": 0},
        {"block_out_channels": []},
        {"block_out_channels": "many"},
    ],
    ids=str,
)
def test_a_config_that_builds_no_model(pipeline: Path, change: dict[str, Any]) -> None:
    _config(**change)(pipeline)
    with pytest.raises(CheckpointError):
        load_single(pipeline, pipeline / "unet" / WEIGHTS)


def test_a_config_of_another_model(pipeline: Path) -> None:
    _config(block_out_channels=[8, 12])(pipeline)
    with pytest.raises(CheckpointError, match=r"wrong shape.*size mismatch"):
        load_single(pipeline, pipeline / "unet" / WEIGHTS)


def test_a_config_of_a_larger_model(pipeline: Path) -> None:
    _config(layers_per_block=2)(pipeline)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_single(pipeline, pipeline / "unet" / WEIGHTS)


def test_other_suffixes_are_not_read(pipeline_folder: Path, tmp_path: Path) -> None:
    for name in ("model.onnx", "model.pkl", "model"):
        (tmp_path / name).write_bytes(b"\x80\x04K\x01.")
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            load_single(pipeline_folder, tmp_path / name)


@pytest.mark.parametrize(
    "content", [{"a": 1}, [torch.zeros(1)], torch.zeros(1), {0: torch.zeros(1)}, {}, 5], ids=str
)
def test_a_file_without_the_models_tensors(
    pipeline_folder: Path, tmp_path: Path, content: Any
) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"no state dict|do not fit"):
        load_single(pipeline_folder, tmp_path / "m.pt")


@pytest.mark.parametrize("kept", [0, 1, 100, 5000, -1])
@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
def test_cut_files_are_refused(
    pipeline_folder: Path, tmp_path: Path, state: State, name: str, kept: int
) -> None:
    torch.save(state, tmp_path / "m.pt")
    save_file(state, tmp_path / "m.safetensors")
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:kept])
    with pytest.raises(CheckpointError):
        load_single(pipeline_folder, tmp_path / name)


@pytest.mark.parametrize(
    "data", [b"hello", b"\x80\x02.", b"PK\x03\x04", b"\0" * 64, b"cos\nsystem\n."]
)
@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
def test_files_of_something_else_are_refused(
    pipeline_folder: Path, tmp_path: Path, name: str, data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError):
        load_single(pipeline_folder, tmp_path / name)


class Payload:
    """A pickle that would leave a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def _save_with_torch(content: Any, path: Path) -> None:
    torch.save(content, path)


def _save_old_style(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _save_with_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("save", [_save_with_torch, _save_old_style, _save_with_pickle])
@pytest.mark.parametrize("form", ["file", "folder"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_not_run(
    pipeline: Path, tmp_path: Path, state: State, save: Callable, form: str
) -> None:
    trace = tmp_path / "trace"
    path = pipeline / "unet" / "diffusion_pytorch_model.bin"
    save({**state, "evil": Payload(trace)}, path)
    if form == "folder":
        (pipeline / "unet" / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="so it was not loaded"):
        load_checkpoint(pipeline) if form == "folder" else load_single(pipeline, path)
    assert not trace.exists()
    # The payload is a real one: read carelessly, it acts.
    torch.load(path, weights_only=False) if save is not _save_with_pickle else pickle.loads(
        path.read_bytes()
    )
    assert trace.exists()


# --- bundles ----------------------------------------------------------------------------------


def test_bundles_are_told_from_checkpoints(
    bundle_folder: Path, pipeline_folder: Path, tmp_path: Path
) -> None:
    assert is_bundle(bundle_folder)
    assert not is_bundle(pipeline_folder)
    assert not is_bundle(pipeline_folder / "unet")
    assert not is_bundle(pipeline_folder / "unet" / "config.json")
    assert not is_bundle(tmp_path)
    assert not is_bundle(tmp_path / "nothing")


def test_a_bundle_is_no_checkpoint(bundle_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="already quantised"):
        load_checkpoint(bundle_folder)


def test_a_config_that_is_damaged_is_neither(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        is_bundle(tmp_path)
