"""Write the golden bundle: a tiny model by MPQ-DMv2 at w3a4, lowered for ONNX Runtime.

    cd tests && python -m golden.make_bundle

It is made once per format version and then kept: later versions of the program must still open it,
or say why not. Calibration runs in floating point, so another machine may write other integers.
"""

import tempfile
from pathlib import Path

import fixtures

from mpq_export.lowering.names import Target

BUNDLE = Path(__file__).parent / "bundle"


def main() -> None:
    """Replace the committed bundle."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline = fixtures.save_pipeline(Path(folder) / "tiny")
        fixtures.quantized_bundle(pipeline, BUNDLE, "mpq-dmv2", targets=(Target.ORT,))


if __name__ == "__main__":
    main()
