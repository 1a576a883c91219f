"""From a bundle to ONNX: node definitions, function bodies, the exporter, one file per target."""
