"""Where a step's time goes: ONNX Runtime's profile by layer and operator, the measured peak."""
