"""What the other tests of this folder run their commands with."""

import json
import sys

import pytest
from commands import interpreter

SAYS = """
import json, os, random, sys
import numpy as np
import torch
said = {
    "words": sys.argv, "name": __name__, "folder": os.getcwd(), "variable": os.environ.get("MINE"),
    "ours": [name for name in sys.modules if name.partition(".")[0] == "mpq_export"],
    "path": sys.path[0], "input": sys.stdin.read(), "random": [random.random(), np.random.rand()],
    "process": os.getpid(),
}
print(json.dumps(said))
os.environ["MINE"] = os.environ["LEFT"] = "left behind"
torch.left = sys.path[:] = []
print("warning", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture
def ran(tmp_path):
    """Runs a script; its folder, and the variable ``MINE``."""

    def run(code, *words):
        script = tmp_path / "script.py"
        script.write_text(code)
        return interpreter().run(script, words, tmp_path, {"MINE": "1"})

    return run


def test_every_command_has_a_process_of_its_own(ran, tmp_path):
    first, second = ran(SAYS, "a", "b c"), ran(SAYS, "a", "b c")
    for done in (first, second):
        assert (done.returncode, done.stderr) == (3, "warning\n")
        said = json.loads(done.stdout)
        assert said["words"] == [str(tmp_path / "script.py"), "a", "b c"]
        assert said["name"] == "__main__"
        assert said["folder"] == said["path"] == str(tmp_path)
        assert said["variable"] == "1"
        assert said["ours"] == [], "only what a command imports is imported"
        assert said["input"] == ""
    one, other = json.loads(first.stdout), json.loads(second.stdout)
    assert one["process"] != other["process"]
    assert not set(one["random"]) & set(other["random"])


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("", 0, ""),
        ("raise SystemExit('no')", 1, "no\n"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import atexit\natexit.register(print, 'ended')", 0, ""),
        ("import os\nos.kill(os.getpid(), 9)", -9, ""),
        ("import torch\nassert not hasattr(torch, 'left')", 0, ""),
    ],
)
def test_it_ends_as_an_interpreter_ends(ran, code, exit_code, said):
    done = ran(code)
    assert done.returncode == exit_code
    assert said in done.stderr
    assert done.stdout == ("ended\n" if "ended" in code else "")


def test_it_is_the_interpreter_of_these_tests(ran):
    assert ran("import sys\nprint(sys.executable)").stdout == f"{sys.executable}\n"
