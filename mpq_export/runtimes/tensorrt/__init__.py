"""Packed layers in TensorRT and TensorRT-RTX: the plugin of both operators, and building an engine.

TensorRT itself is a module that is handed in; nothing here imports it but ``flavour``.
"""
