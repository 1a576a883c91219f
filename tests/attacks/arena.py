"""Runs attacks in a process of their own, with limits on memory and time.

A process that survives an attack takes the next one; one that dies is replaced, and the attack has
failed. Processes are forked from a server that has imported everything before any thread starts.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

from mpq_export.errors import UserError

from .attack import Attack, Material, Outcome, Place, Result

MEMORY = 512 << 20
"""Bytes by which an attacked process may grow."""
SECONDS = 60
_SPAWNING = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")
_PRELOADED = [
    "diffusers.models.unets.unet_2d",
    "diffusers.schedulers.scheduling_ddim",
    "onnxruntime",
    "mpq_export.export",
    "mpq_export.runtimes.onnxruntime_denoiser",
    "mpq_export.runtimes.tensorrt.engine_source",
    "mpq_export.runtimes.torch_denoiser",
]
Answer = tuple[Outcome, str]


def run_attacks(attacks: Sequence[Attack], material: Material) -> Iterator[Result]:
    """Run attacks one after another, in the given order."""
    fighter = _Fighter(material)
    with TemporaryDirectory() as folder:
        for number, attack in enumerate(attacks):
            place = Place(material, Path(folder, str(number)))
            place.folder.mkdir()
            outcome, message = fighter.meet(attack, place)
            if place.canary.exists():
                outcome, message = Outcome.CRASHED, "hostile code ran"
            shutil.rmtree(place.folder)
            yield Result(attack, outcome, message.replace(str(place.folder), "..."))
    fighter.stop()


class _Fighter:
    """The process that is attacked."""

    def __init__(self, material: Material) -> None:
        self.material = material
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(_PRELOADED)
        self._start()

    def _start(self) -> None:
        self.connection, theirs = self.context.Pipe()
        self.process = self.context.Process(target=_fight, args=(theirs,))
        self.process.start()
        theirs.close()

    def meet(self, attack: Attack, place: Place) -> Answer:
        """Let an attack happen; start again if the process did not survive it."""
        self.connection.send((attack.area, attack.name, place))
        try:
            if self.connection.poll(SECONDS):
                answer: Answer = self.connection.recv()
                return answer
            message = f"no answer within {SECONDS} s"
        except (EOFError, ConnectionError):
            self.process.join()
            message = f"the process died with {self.process.exitcode}"
        self.stop()
        self._start()
        return Outcome.CRASHED, message

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _fight(connection: Connection) -> None:
    from .catalogue import CATALOGUE

    spawned: list[str] = []
    sys.addaudithook(lambda event, _: spawned.append(event) if event in _SPAWNING else None)
    while True:
        area, name, place = connection.recv()
        attack = CATALOGUE[area, name]
        os.chdir(place.folder)
        victim = attack.make(place)
        spawned.clear()
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY, limits[1]))
        outcome, message = _outcome(attack, victim)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        if spawned:
            outcome, message = Outcome.CRASHED, f"it did {', '.join(spawned)}"
        connection.send((outcome, message))


def _outcome(attack: Attack, victim: Path) -> Answer:
    try:
        attack.enter(victim)
    except UserError as error:
        message = error.paragraph()
        if attack.names in message:
            return Outcome.REFUSED, message
        return Outcome.CRASHED, f"the message does not mention {attack.names!r}: {message}"
    except BaseException:
        return Outcome.CRASHED, traceback.format_exc()
    return Outcome.CORRECT, ""


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
