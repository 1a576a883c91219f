"""Small models and bundles that tests share; each is made in well under a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpq_export.bundle import Bundle
from mpq_export.bundle_config import FORMAT_VERSION, LayerConfig, QuantizationConfig
from mpq_export.bundle_features import TemporalConfig
from mpq_export.core.feature_table import FeatureTable
from mpq_export.core.integer_reference import ConvGeometry, PackedLayer
from mpq_export.core.planes import PlaneMatrix, pack

SEED = 7
NUM_STEPS = 3
NUM_CLASSES = 4
BITS = "w3a4"


class SilentProgress:
    """A progress reporter that only keeps the names of the tasks."""

    def __init__(self) -> None:
        self.tasks: list[str] = []

    def start(self, task: str, total: int) -> None:
        self.tasks.append(task)

    def advance(self, parts: int = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def tiny_unet(seed: int = SEED, channels: int = 2, classes: int = NUM_CLASSES):
    """A class-conditional UNet2DModel with an attention block and a 1x1 shortcut, 45 k weights."""
    import torch
    from diffusers import UNet2DModel

    torch.manual_seed(seed)
    return UNet2DModel(
        sample_size=8, in_channels=channels, out_channels=channels, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
    ).eval()  # fmt: skip


def save_pipeline(folder: Path, model=None, pipeline_class: str = "DDIMPipeline") -> Path:
    """A diffusers pipeline folder: model_index.json, unet/, scheduler/ (DDIM)."""
    from diffusers import DDIMScheduler

    from mpq_export.files import write_json

    (tiny_unet() if model is None else model).save_pretrained(folder / "unet")
    DDIMScheduler(timestep_spacing="trailing").save_pretrained(folder / "scheduler")
    index = {
        "_class_name": pipeline_class,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    write_json(folder / "model_index.json", index)
    return folder


def quantized_bundle(
    pipeline: Path,
    folder: Path,
    method: str = "mpq-dm",
    bits: str = BITS,
    targets: tuple = (),
    **changes: object,
) -> Path:
    """Quantise a pipeline folder and write its bundle into ``folder``, as the command does, by a
    method or by what ``changes`` make of it."""
    from mpq_export.checkpoints import load_checkpoint
    from mpq_export.export import export_checkpoint
    from mpq_export.export_request import ExportRequest
    from mpq_export.methods import recipe_of
    from mpq_export.precision import BitSpec

    recipe = recipe_of(method).trained_for(0).model_copy(update=changes)
    request = ExportRequest(BitSpec.parse(bits), recipe, targets, NUM_STEPS, SEED, folder)
    export_checkpoint(load_checkpoint(pipeline), request, SilentProgress())
    return folder


def exported_bundle(pipeline: Path, folder: Path) -> Path:
    """A bundle by MPQ-DMv2 with every lowered target; takes a few seconds to trace."""
    from mpq_export.lowering.names import Target

    return quantized_bundle(pipeline, folder, "mpq-dmv2", targets=tuple(Target))


def cached_bundle(pipeline: Path, folder: Path) -> Path:
    """A bundle whose temporal features are cached, with every lowered target."""
    from mpq_export.lowering.names import Target
    from mpq_export.temporal.choices import CacheChoices

    choices = CacheChoices()
    return quantized_bundle(pipeline, folder, "rtn", "w4a8", tuple(Target), cache=choices)


def random_layer(
    plane_count: list[int],
    columns: int,
    act_bits: int,
    conv: ConvGeometry | None = None,
    shift: list[int] | None = None,
    factor: bool = False,
    seed: int = SEED,
) -> PackedLayer:
    """A packed layer of random planes that keeps the contract; numpy only."""
    rng = np.random.default_rng(seed)
    rows, planes = len(plane_count), max(plane_count)
    owned = np.arange(planes) < np.array(plane_count)[:, None]
    steps = rng.integers(0, 120 // planes, (rows, planes)) * owned
    codes = rng.integers(0, 2 ** np.array(plane_count)[:, None], (rows, columns))
    taps = 1 if conv is None else conv.kernel_shape[0] * conv.kernel_shape[1] / conv.group
    channels = int(columns / taps)
    return PackedLayer(
        weight=pack(
            PlaneMatrix(
                offset=rng.integers(-127, 8, rows).astype(np.int8),
                steps=steps.astype(np.int8),
                codes=codes.astype(np.uint8),
                plane_count=np.array(plane_count, np.int64),
                scale=rng.uniform(0.001, 0.1, rows).astype(np.float32),
            )
        ),
        bias=rng.normal(size=rows).astype(np.float32),
        act_scale=rng.uniform(0.01, 0.3, NUM_STEPS).astype(np.float32),
        act_zero_point=rng.integers(0, 2**act_bits, NUM_STEPS).astype(np.int32),
        act_bits=act_bits,
        input_factor=rng.uniform(0.5, 2, channels).astype(np.float32)
        if factor
        else np.ones(channels, np.float32),
        input_shift=np.array(shift if shift else [0] * channels, np.int8),
        conv=conv,
    )


def handmade_bundle(folder: Path) -> Bundle:
    """A bundle that is not a model: every optional part of the format once. Not written yet."""
    geometry = ConvGeometry((3, 2), (2, 1), (1, 0, 2, 1), (1, 2), 2)
    layers = {
        "blocks.0.fc": random_layer([1, 3, 2, 3, 1], 40, 4, shift=[0, 4] * 20, factor=True),
        "blocks.0.dw": random_layer([2] * 4, 18, 2, geometry, seed=SEED + 1),
        "out": random_layer([8], 32, 8, seed=SEED + 2),
    }
    config = QuantizationConfig(
        bits="w2a4",
        method="rtn",
        recipe={"smoothing": True},
        family="digits",
        source="nowhere",
        source_sha256="0123456789abcdef" * 4,
        format_version=FORMAT_VERSION,
        full_precision_parameters=321,
        layers={name: LayerConfig.of(layer) for name, layer in layers.items()},
        eight_bit={"out": "last layer"},
        kept={"norm": "normalisation"},
        temporal=TemporalConfig(
            features=["time.b", "time.a"],
            labels="class_labels",
            removed={"time.a": [2, 5], "time.b": [3, 5], "time.embed": [5, 7]},
            computed={"time.c": "it depends on text, beside the timestep"},
            errors={"time.a": [0.01, 0.1], "time.b": [0.01, 0.1]},
        ),
    )
    rng = np.random.default_rng(SEED)
    return Bundle(
        path=folder,
        model_config={"_class_name": "UNet2DModel", "text": "Grüße", "nothing": None},
        scheduler_config={"_class_name": "DDIMScheduler", "num_train_timesteps": 1000},
        quantization=config,
        layers=layers,
        parameters={
            "norm.weight": np.array([1, -2.5, 0, 1e-40], np.float32),
            "norm.count": np.array(3, np.float32),
            "empty": np.zeros((0, 4), np.float32),
        },
        timesteps=np.array([666, 333, 0], np.int32),
        output_bias=np.array([0.5, 0, -0.25], np.float32),
        features=FeatureTable(
            rng.integers(-127, 128, (3, 2, 5)).astype(np.int8),
            np.array([0.5, 1, 2, 1e-3, 1e-30], np.float32),
            np.array([0, -1, 1e3, 1e-40, 7], np.float32),
        ),
    )


def layer_starts(bundle_folder: Path, model, form=None) -> dict:
    """How training begins from a bundle of ``model`` that MPQ-DM made."""
    from mpq_export.bundle import read_bundle
    from mpq_export.core.weight_form import WeightForm
    from mpq_export.training.student import LayerStart

    quantization = read_bundle(bundle_folder)
    eight_bit = quantization.quantization.eight_bit
    return {
        name: LayerStart(layer, form or WeightForm.UNIFORM, 8 if name in eight_bit else 3)
        for name, layer in quantization.layers.items()
    }


class OneProcess:
    """The processes of a training run that is alone."""

    num_processes = 1
    is_main_process = True

    def __init__(self) -> None:
        import torch

        self.device = torch.device("cpu")

    def reduce(self, tensor, reduction: str):
        return tensor

    def autocast(self):
        from contextlib import nullcontext

        return nullcontext()

    def wait_for_everyone(self) -> None:
        pass
