"""The process that draws a row: what its parent reads of it."""

import json
import subprocess
import sys
from dataclasses import asdict

from mpq_export.pipelines.registry import DrawRequest

from mpq_export.evaluation.bench.drawing import Drawing

CODE = """
import os, sys
from mpq_export.evaluation.bench import drawing

def draw_row(words, on_images):
    print("a library's banner")
    os.write(1, b"from C\\n")
    on_images(words.request.num_images)

drawing.draw_row = draw_row
drawing.main(sys.argv[1])
"""


def test_only_numbers_of_images_are_on_stdout_whatever_libraries_print():
    words = Drawing("f", None, "p", DrawRequest(3, 2, 0), False, None, "o")
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(asdict(words))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "3\n"
    assert "banner" in done.stderr
    assert "from C" in done.stderr
