"""Numbers that bound a training run; without heavy imports, so that ``--help`` can read them."""

MAX_UPDATES = 10_000_000
MAX_IMAGES = 65_536
"""Images of an update, of all processes together."""
