"""What people may throw at the program: each attack is refused clearly or does no harm.

One module per area holds a catalogue of attacks; :mod:`.arena` runs each in a process of its own;
``make attacks`` writes the table of ``docs/results/attacks.md``, pytest runs the same catalogue.
"""
