"""Full-precision models in: folders, pipelines, single files and hub ids. See :mod:`.loading`."""

from .loading import Checkpoint, is_bundle, load_checkpoint

__all__ = ["Checkpoint", "is_bundle", "load_checkpoint"]
