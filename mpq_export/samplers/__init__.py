"""Samplers in numpy from diffusers' scheduler configs: images on a board without torch.

One file per scheduler. An option that changes diffusers' result is honoured, or refused by name.
"""
