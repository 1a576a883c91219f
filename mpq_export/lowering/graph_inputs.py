"""Names of the exported graph's inputs and output; conditions keep diffusers' names."""

SAMPLE = "sample"
TIMESTEP = "timestep"
STEP_INDEX = "step_index"
PREDICTION = "prediction"
FEATURES = "features"
"""Before the names of a table of temporal features: ``codes``, ``scale``, ``offset``."""
