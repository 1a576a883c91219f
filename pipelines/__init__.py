"""Model families: one folder each, with its diffusers pipeline, data and training script.

Installed as ``mpq_export.pipelines``. A bundle names a family from :mod:`.registry`, never code.
"""
