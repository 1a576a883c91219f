"""What a bundle is compared with: the full-precision model as standard ONNX, and static int8.

Each file that makes one has ``make(source, folder)``.
"""
