"""Everything that runs the full-precision model: trajectories, calibration, distillation."""
