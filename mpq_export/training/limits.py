"""Numbers that bound a training run; without heavy imports, so that ``--help`` can read them."""

MAX_UPDATES = 10_000_000
