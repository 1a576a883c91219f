"""Attacks on what is written: places that refuse, full disks, rivals, and SIGKILL at any moment.

Each runs in processes of its own, since limits and kills are for good.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from soundness import assert_sound_bundle

from mpq_export.bundle import Bundle, read_bundle
from mpq_export.cli import export as export_command
from mpq_export.errors import UserError
from mpq_export.export import export_bundle
from mpq_export.lowering.names import Target
from mpq_export.lowering.targets import read_lowered

from .attack import CORRECT, REFUSED, Attack, Place
from .bundles import handmade

AREA = "outputs"
_WRITES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
_FULL_AFTER = (0, 100, 2000)
"""Bytes that any one file may have before the disk is full."""


class _Silent:
    def start(self, task: str, total: int) -> None: ...

    def advance(self, parts: int = 1) -> None: ...


def _copy(bundle: Bundle, out: Path) -> None:
    export_bundle(bundle, (), out, _Silent())


def _in_child(work: Callable[[], Any]) -> int:
    """Fork, work, and return the exit status: 0 done, 2 UserError (its text in ``refusal``)."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        work()
        status = 0
    except UserError as error:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        Path("refusal").write_text(error.paragraph())
        status = 2
    finally:
        os._exit(status)


def _refuse_as_the_child(status: int) -> None:
    """Raise what the child refused; anything else is a failure."""
    assert status == 2, f"the child ended with {status}"
    raise UserError(Path("refusal").read_text())


def write_into(folder: Callable[[Path], str | Path]) -> Callable[[Path], None]:
    """The door: copy a bundle to a place where nothing can be written."""

    def enter(source: Path) -> None:
        before = set(source.parent.rglob("*"))
        out = folder(source.parent)
        try:
            _copy(read_bundle(source), Path(out))
        finally:
            assert set(source.parent.rglob("*")) == before

    return enter


def fill_the_disk(allowed: int, old: bool) -> Callable[[Path], None]:
    """The door: copy a bundle while no file may grow beyond some bytes."""

    def enter(source: Path) -> None:
        out, bundle = source.parent / "out", read_bundle(source)
        if old:
            _copy(bundle, out)

        def work() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, resource.RLIM_INFINITY))
            _copy(bundle, out)

        status = _in_child(work)
        _assert_whole_or_absent(out, old)
        assert not _hidden(out), "something half-written was left"
        _refuse_as_the_child(status)

    return enter


def _hidden(out: Path) -> list[Path]:
    return [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}.")]


def _assert_whole_or_absent(out: Path, old: bool) -> None:
    if old or out.exists():
        assert_sound_bundle(read_bundle(out))
    strangers = {path.name for path in out.parent.iterdir()} - {"bundle", "out", "refusal"}
    assert all(name.startswith(".out.") and name.endswith(".partial") for name in strangers)


def kill_at_every_step(old: bool, exchange: bool) -> Callable[[Path], None]:
    """The door: copy a bundle, killed at its n-th change of the file system, for every n."""

    def enter(source: Path) -> None:
        out, bundle, steps = source.parent / "out", read_bundle(source), 0
        status = -signal.SIGKILL
        while status == -signal.SIGKILL:
            shutil.rmtree(out, ignore_errors=True)
            if old:
                _copy(bundle, out)
            status = _in_child(partial(_copy_until_killed, bundle, out, steps, exchange))
            recoverable = not exchange and old
            if not (recoverable and not out.exists()):
                _assert_whole_or_absent(out, old)
            _require_recovery(bundle, out, recoverable)
            steps += 1
        assert status == 0
        assert steps > 10, f"only {steps} steps were seen"

    return enter


def _require_recovery(bundle: Bundle, out: Path, recoverable: bool) -> None:
    """The next writer finds the old output, cleans up, and succeeds."""
    if recoverable and not out.exists():
        from mpq_export.leftovers import remove_leftovers

        remove_leftovers(out)
        assert_sound_bundle(read_bundle(out))
    _copy(bundle, out)
    assert_sound_bundle(read_bundle(out))
    assert not _hidden(out), "what the dead left is still there"


def _copy_until_killed(bundle: Bundle, out: Path, steps: int, exchange: bool) -> None:
    from mpq_export import files

    if not exchange:
        files._exchange = lambda *_: False
    seen = 0

    def count(event: str, _: object) -> None:
        nonlocal seen
        if event in _WRITES:
            if seen == steps:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(count)
    _copy(bundle, out)


def kill_the_command(delay: float) -> Callable[[Path], None]:
    """The door: the whole export of a checkpoint, killed some time after its folder appears."""

    def enter(pipeline: Path) -> None:
        out = Path("out").absolute()
        child = os.fork()
        if not child:
            _mute()
            sys.argv = ["mpq-export", "--ckpt", str(pipeline), "--bits", "w3a4", "--method", "rtn",
                        "--inference-steps", "1", "--out", str(out)]  # fmt: skip
            try:
                export_command.main()
            finally:
                os._exit(0)
        _wait_and_kill(child, out, delay)
        if out.exists():
            assert_sound_bundle(read_bundle(out))
            read_lowered(out, Target.ORT)
        strangers = {path.name for path in out.parent.iterdir()} - {"out"}
        assert all(name.startswith(".out.") and name.endswith(".partial") for name in strangers)

    return enter


def _wait_and_kill(child: int, out: Path, delay: float) -> None:
    import time

    while not _hidden(out) and not out.exists():
        time.sleep(0.002)
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the export ended before it began"
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _mute() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)


def race(rivals: int, old: bool) -> Callable[[Path], None]:
    """The door: several processes copy a bundle to one place, again and again."""

    def enter(source: Path) -> None:
        out, bundle = source.parent / "out", read_bundle(source)
        if old:
            _copy(bundle, out)
        children = []
        for _ in range(rivals):
            child = os.fork()
            if not child:
                status = 1
                try:
                    for _ in range(10):
                        _copy(bundle, out)
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert statuses == [0] * rivals
        assert_sound_bundle(read_bundle(out))
        assert not _hidden(out)

    return enter


def keep_foreign_files(source: Path) -> None:
    """The door: while a bundle is written, somebody puts a file of theirs into the output."""
    from mpq_export.bundle import write_bundle
    from mpq_export.files import staged_folder

    out = source.parent / "out"
    try:
        with staged_folder(out) as stage:
            write_bundle(stage, read_bundle(source))
            out.mkdir()
            (out / "thesis.tex").write_text("mine")
    finally:
        assert (out / "thesis.tex").read_text() == "mine"


def keep_links(source: Path) -> None:
    """The door: leftovers that are links to somebody's folder."""
    out, precious = source.parent / "out", source.parent / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("mine")
    (source.parent / ".out.abc.partial").symlink_to(precious)
    _copy(read_bundle(source), out)
    assert (precious / "thesis.tex").read_text() == "mine"


def print_to_a_full_disk(source: Path) -> None:
    """The door: the report of a command on a device that is full."""

    def work() -> None:
        _mute()
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        os.dup2(os.open("errors", os.O_WRONLY | os.O_CREAT, 0o600), 2)
        sys.argv = ["mpq-doctor", str(source), "--json"]
        from mpq_export.cli import doctor

        doctor.main()

    child = os.fork()
    if not child:
        try:
            work()
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 1)
        finally:
            os._exit(3)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    errors = Path("errors").read_text()
    assert status == 2, (status, errors)
    assert "Traceback" not in errors
    raise UserError(errors.strip())


PLACES: dict[str, Callable[[Path], str | Path]] = {
    "below a file": lambda f: f / "bundle" / "config.json" / "out",
    "a file": lambda f: f / "bundle" / "config.json",
    "below a device": lambda f: "/dev/null/out",
    "in /proc": lambda f: "/proc/out",
    "deep in /proc": lambda f: "/proc/self/out",
    "in /sys": lambda f: "/sys/out",
    "the root": lambda f: "/",
    "below a name of 300 letters": lambda f: f / ("x" * 300) / "out",
    "at a path of 5,000 letters": lambda f: f / Path(*["x" * 100] * 50),
}


def _pipeline(place: Place) -> Path:
    return place.material.pipeline


ATTACKS = [
    *(Attack(AREA, f"the output lies {what}", handmade, write_into(out))
      for what, out in PLACES.items()),
    *(Attack(AREA, f"the disk is full after {allowed} bytes, {'an old' if old else 'no'} output",
             handmade, fill_the_disk(allowed, old))
      for allowed in _FULL_AFTER for old in (False, True)),
    *(Attack(AREA, f"killed at every step, {'an old' if old else 'no'} output, folders are "
             f"{'exchanged' if exchange else 'renamed'}", handmade,
             kill_at_every_step(old, exchange), CORRECT)
      for old, exchange in ((False, True), (True, True), (True, False))),
    *(Attack(AREA, f"a whole export killed {delay} s after its folder appears", _pipeline,
             kill_the_command(delay), CORRECT)
      for delay in (0.0, 0.02)),
    *(Attack(AREA, f"{rivals} processes write one output, {'an old' if old else 'no'} one before",
             handmade, race(rivals, old), CORRECT)
      for rivals in (2, 4) for old in (False, True)),
    Attack(AREA, "somebody's file appears in the output meanwhile", handmade, keep_foreign_files,
           REFUSED, "holds other files"),
    Attack(AREA, "a leftover that is a link to somebody's folder", handmade, keep_links, CORRECT),
    Attack(AREA, "a report to a full device", handmade, print_to_a_full_disk, REFUSED,
           "No space left"),
]  # fmt: skip
