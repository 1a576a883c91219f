"""CUDA's driver through ctypes, for runtimes that need no torch: pointers are integers."""
