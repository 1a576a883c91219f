"""``make bench-cpu``: a step of the packed model on this processor, against what else runs there.

Every backend runs in a worker process of its own; the parent lets them take turns, so that what
disturbs the machine disturbs all alike. Files are made once (``artefacts``), measurements kept
(``records``), and the table is written after each of them (``report``).
"""
