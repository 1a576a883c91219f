"""Running a bundle: one :class:`~.denoiser.Denoiser` per runtime."""
