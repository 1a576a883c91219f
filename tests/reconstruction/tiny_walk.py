"""The tiny model's config and scheduler, as walks over its own trajectories take them."""

import fixtures

CONFIG = {**fixtures.tiny_unet().config, "_class_name": "UNet2DModel"}
SCHEDULER = {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}
