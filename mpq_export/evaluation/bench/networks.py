"""Networks of others that judge images, where their weights are on this disk already.

Files of torch's hub have the beginning of their sha256 in their names: others of these names are
not opened, since the libraries that read them would unpickle whatever is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

ALEXNET = "alexnet-owt-7be5be79.pth"
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
CLIP = "openai/clip-vit-base-patch16"
"""A name in the Hugging Face cache, or a folder."""
_CHUNK = 32

Images = np.ndarray
"""float32 ``[N, C, H, W]`` in [0, 1]; one channel counts as grey."""


class NotOnDisk(Exception):
    """Why a network cannot be had: what is not here, in words for a report."""


def lpips() -> Callable[[Images, Images], np.ndarray]:
    """Of pairs of images, their distance ``[N]``: LPIPS over AlexNet (Zhang et al. 2018, arXiv
    1801.03924). Raises NotOnDisk."""
    _require_package("torchvision")
    _hub_file(ALEXNET)
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    network = LearnedPerceptualImagePatchSimilarity("alex", reduction="none", normalize=True)

    def distances(images: Images, others: Images) -> np.ndarray:
        pairs = zip(_chunks(images), _chunks(others), strict=True)
        return _joined(network(one, other).reshape(-1) for one, other in pairs)

    return distances


def inception() -> Callable[[Images], np.ndarray]:
    """Inception's features ``[N, 2048]``, as the usual Frechet distance takes them (Heusel et al.
    2017, arXiv 1706.08500). Raises NotOnDisk."""
    _require_package("torch_fidelity")
    weights = _hub_file(INCEPTION)
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("inception", ["2048"], str(weights))

    def features(images: Images) -> np.ndarray:
        bytes_of = (torch.round(chunk * 255).to(torch.uint8) for chunk in _chunks(images))
        return _joined(network(chunk)[0] for chunk in bytes_of)

    return features


def clip_score(prompts: Sequence[str]) -> Callable[[Images], np.ndarray]:
    """Of images that were drawn of ``prompts`` in turn, 100 times the cosine of image and text, at
    least 0, ``[N]`` (Hessel et al. 2021, arXiv 2104.08718, equation 1 with 100 for its factor of
    2.5). Raises NotOnDisk."""
    if not prompts:
        raise NotOnDisk("nothing was drawn of a prompt")
    _require_package("transformers")
    from transformers import CLIPModel, CLIPProcessor

    try:
        network = CLIPModel.from_pretrained(CLIP, local_files_only=True).eval()
        processor = CLIPProcessor.from_pretrained(CLIP, local_files_only=True)
    except (OSError, ValueError) as error:
        raise NotOnDisk(f"'{CLIP}' is not in the cache, and nothing is downloaded") from error
    room = network.config.text_config.max_position_embeddings

    def scores(images: Images) -> np.ndarray:
        def of(first: int, chunk: torch.Tensor) -> torch.Tensor:
            texts = [prompts[(first + row) % len(prompts)] for row in range(len(chunk))]
            inputs = processor(
                text=texts, images=list(chunk), return_tensors="pt", padding=True,
                truncation=True, max_length=room, do_rescale=False,
            )  # fmt: skip
            found = network(**inputs)
            cosine = torch.cosine_similarity(found.image_embeds, found.text_embeds)
            return 100 * cosine.clamp(min=0)

        return _joined(of(number * _CHUNK, chunk) for number, chunk in enumerate(_chunks(images)))

    return scores


def _require_package(name: str) -> None:
    if find_spec(name) is None:
        raise NotOnDisk(f"{name} is not installed")


def _hub_file(name: str) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        raise NotOnDisk(f"{name} is not in torch's hub cache, and nothing is downloaded")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(path.stem.rsplit("-", 1)[1]):
        raise NotOnDisk(f"{name} in torch's hub cache is not the file that its name says")
    return path


def _chunks(images: Images) -> Iterator[torch.Tensor]:
    for first in range(0, len(images), _CHUNK):
        chunk = torch.from_numpy(np.clip(images[first : first + _CHUNK], 0, 1))
        yield chunk.expand(-1, 3, -1, -1) if chunk.shape[1] == 1 else chunk


def _joined(parts: Iterator[torch.Tensor]) -> np.ndarray:
    with torch.inference_mode():
        return torch.cat(list(parts)).double().numpy()
