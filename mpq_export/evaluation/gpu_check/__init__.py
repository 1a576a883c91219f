"""``make gpu-check``: on a machine with an NVIDIA GPU, is it exact, and how fast is it?

Five parts, each of which can be run alone: ``exactness`` (every kernel against the integer
reference), ``tests`` (those marked ``gpu``), ``kernels`` (products against cuBLAS and cuDNN),
``models`` (whole denoising steps) and ``engines`` (TensorRT's of packed layers, plain INT8 and
float16, where there is a TensorRT). The first and third need numpy, torch and nvcc alone; what is
not there is said in the place of its results. ``--emulated`` runs the same code on the emulated
GPU, on tiny shapes.
"""
