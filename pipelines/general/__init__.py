"""Any diffusers pipeline: its denoiser quantised, its other components as they were."""
