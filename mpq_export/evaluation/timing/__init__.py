"""Timing models fairly: each in a process of its own, in turns.

The parent (``rounds``) starts a ``worker`` per model and lets them take turns, so that what
disturbs the machine disturbs all alike; ``statistics`` says what comes out.
"""
