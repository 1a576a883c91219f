"""CUDA's driver through ctypes: memory, streams and graphs for runtimes that need no torch."""
