"""Making of artefacts, one file per kind; each has ``make(source, folder)``."""
