"""Kill a training with -9 at seeded moments over all of its phases, and see whether it resumes to the same weights.

    python benchmarks/kills.py --kills 50 --seed 0
    python benchmarks/kills.py --kills 4 --small        # what the tests run: a small network, one kill in each quarter

Trainings run in processes that are forked from one that has imported everything and has started nothing. Each tells
what it is at; at a moment that the seed chooses (a phase, and some time after it began) it gets SIGKILL. Then it is
resumed, to be killed again, several times in a row; at last it may end, and its weights, probabilities and history are
compared with those of a training that nobody disturbed.

The recipe has what can go wrong: a solved head whose pooling is chosen among those of the last block and of all blocks,
dropout, views, a learning rate that is searched, a stage that may be taken back, BatchNorm on batch statistics, a
running mean of the weights whose statistics are taken anew, checkpoints inside epochs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

PHASES = (
    *("reading pictures", "frozen part", "looking for near-copies", "probe", "probe 1"),
    *("last-block", "learning rate", "last-block 1", "last-block 2", "last-block 3"),
    *("deeper", "deeper 1", "deeper 2", "writing"),
)
"""What a training tells, in its order: bars, stages, epochs."""

_LEFT_OUT = ("learning rate", "last-block", "last-block 1", "last-block 2", "last-block 3")  # of a small training
CHECKPOINT = "checkpoint"  # its writing, whichever phase it is in
_LONGEST = 0.6  # seconds after a phase began
_LONGEST_SMALL = 0.05  # where all of it takes seconds
_ROW = 5  # kills of one training, one after the other
_PATIENCE = 600.0  # seconds that a training may say nothing


def main() -> int:
    """Run it as a script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="one block in each group; kills spread over the phases")
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it there")
    options = parser.parse_args()
    with _folder(options.keep) as folder:
        found = kill_often(
            folder, kills=options.kills, seed=options.seed, small=options.small,
            say=lambda text: print(text, flush=True),
        )  # fmt: skip
    print(found)
    return 0 if found.same else 1


@dataclass
class Found:
    """What came out.

    Attributes:
        kills: how many trainings got SIGKILL.
        where: in which phase, how often.
        trainings: how many were killed, resumed and ended.
        different: seeds of those that did not end like the undisturbed one.
    """

    kills: int = 0
    where: Counter[str] = field(default_factory=Counter)
    trainings: int = 0
    different: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether all ended alike."""
        return not self.different

    def __str__(self) -> str:
        where = ", ".join(f"{name} {count}" for name, count in self.where.items())
        result = "the same weights, probabilities and history each time" if self.same else f"NOT: {self.different}"
        return f"{self.kills} kills in {self.trainings} trainings ({where}): {result}"


def kill_often(
    folder: Path, *, kills: int, seed: int, small: bool = False, say: Any = lambda _: None, row: int = _ROW
) -> Found:  # fmt: skip
    """Train undisturbed, then with kills, and compare.

    Args:
        folder: to work in.
        kills: how many.
        seed: of the moments.
        small: a network of one block in each group, and in a row of kills one in each part of the training.
        say: told how it goes.
        row: kills of one training before it may end.
    """
    import_everything()
    data = _pictures(folder / "pictures")
    Child(folder, "undisturbed", data, small=small).ends()
    expected = digest(folder / "undisturbed")
    say(f"undisturbed: {expected[:16]}")
    chance, found = random.Random(seed), Found()
    while found.kills < kills:
        name = f"killed-{found.trainings}"
        _own_cache(folder, name)
        # Early phases first: what is behind a checkpoint does not come again.
        for place, delay in _moments(chance, min(row, kills - found.kills), small=small):
            child = Child(folder, name, data, small=small)
            phase = child.dies(CHECKPOINT if place < 0 else PHASES[place], delay)
            if phase is not None:
                found.kills += 1
                found.where[phase] += 1
                say(f"{name}: killed {delay:.2f} s after {phase!r} began")
        Child(folder, name, data, small=small).ends()
        found.trainings += 1
        result = digest(folder / name)
        if result != expected or (folder / f"{name}.partial").exists():
            found.different.append(name)
        say(f"{name}: {result[:16]} {'the same' if result == expected else 'DIFFERENT'}")
    return found


def digest(run: Path) -> str:
    """Of all that a training computes: weights, probabilities, history, split."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    hashes = [hashlib.sha256((run / name).read_bytes()).hexdigest() for name in ("validation.parquet", "history.csv")]
    proofs = [stage["proof"]["digest"] for stage in record["stages"]]
    return hashlib.sha256(json.dumps([record["weights_sha256"], *hashes, *proofs]).encode()).hexdigest()


def _cache(folder: Path, name: str) -> Path:
    return folder / f"{name}-cache"


def _own_cache(folder: Path, name: str) -> None:
    """A training has to run its frozen part itself; on what was found out by timing it has to agree with the other."""
    _cache(folder, name).mkdir(exist_ok=True)
    known = _cache(folder, "undisturbed") / "machine.json"
    if known.is_file():
        shutil.copy2(known, _cache(folder, name))


def recipe() -> Any:
    """Few pictures, with everything that has a state."""
    from greffon.recipe import Head, Recipe, Stage

    return Recipe(
        weights="thin",
        image_size=64,  # a last feature map of 2x2: all poolings but one are compared
        views=2,
        head=Head(pool="auto", dropout=0.2),
        stages=(
            Stage(name="probe", optimizer="lbfgs"),
            Stage(
                name="last-block", unfreeze="conv5_block3", learning_rate="auto", epochs=3, batch_size=8,
                only_if_better=True,
            ),
            Stage(
                name="deeper", unfreeze="conv5_block2", batch_norm="train", learning_rate=1e-4, epochs=2, batch_size=8,
                patience=None, ema=0.9,
            ),
        ),
    )  # fmt: skip


def small_recipe() -> Any:
    """The same without its middle: what is looked for there takes most of the time of a small training."""
    probe, _, deeper = recipe().stages
    return recipe().replace(weights="none", image_size=32, stages=(probe, deeper.replace(unfreeze="conv5")))


class Child:
    """A training in a process of its own: begun, or resumed where there is something to resume."""

    def __init__(self, folder: Path, name: str, data: Path, *, small: bool) -> None:
        self.out = folder / name
        ours, theirs = os.pipe()
        self._phases = os.fdopen(ours)
        self._log = folder / f"{name}.log"
        self.process = os.fork()
        if self.process == 0:
            self._phases.close()
            os.environ["GREFFON_CACHE"] = str(_cache(folder, name))
            _child(self.out, data, theirs, self._log, small=small)
        os.close(theirs)

    def dies(self, phase: str, delay: float) -> str | None:
        """Kill it some time after a phase began, or one that is behind it; None where it ended before."""
        wanted = len(PHASES) if phase == CHECKPOINT else PHASES.index(phase)
        for said in self._said():
            reached = PHASES.index(said) >= wanted if said in PHASES else said == phase
            if reached:
                time.sleep(delay)
                os.kill(self.process, signal.SIGKILL)
                break
        else:
            said = None
        _, status = os.waitpid(self.process, 0)
        self._phases.close()
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return said
        if status != 0:
            raise RuntimeError(f"a training failed: {self._log.read_text(encoding='utf-8')[-3000:]}")
        return None

    def ends(self) -> None:
        """Wait for its end."""
        for _ in self._said():
            pass
        _, status = os.waitpid(self.process, 0)
        self._phases.close()
        if status != 0:
            raise RuntimeError(f"a training failed: {self._log.read_text(encoding='utf-8')[-3000:]}")

    def _said(self) -> Any:
        while select.select([self._phases], [], [], _PATIENCE)[0]:
            line = self._phases.readline()
            if not line:
                return
            yield line.strip()


def _child(out: Path, data: Path, pipe: int, log: Path, *, small: bool) -> None:
    """What the forked process does; it never returns."""
    code = 1
    try:
        with log.open("a", encoding="utf-8") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            try:
                _train(out, data, lambda phase: os.write(pipe, f"{phase}\n".encode()), small=small)
                code = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
    finally:
        os._exit(code)


def _train(out: Path, data: Path, tell: Any, *, small: bool) -> None:
    from greffon.training import feeding, partial, purpose, tail, whole_run
    from greffon.training.progress import Reporter
    from greffon.training.resume import resume
    from greffon.training.train import train

    class Telling(Reporter):
        @contextmanager
        def bar(self, name: str, *, total: int | None, unit: str = "pictures") -> Any:
            tell(name)
            yield lambda _: None

        def stage(self, name: str, index: int, count: int, table: Any = None) -> None:
            tell(name)

        def note(self, text: str) -> None:
            if "learning rate" in text:
                tell("learning rate")

        def epoch(self, stage: str, epoch: int, epochs: int, logs: Any, best: bool) -> None:
            tell(f"{stage} {epoch}")

    tail._SMALL = 0  # checkpoints inside epochs, as with large activations
    _before(partial, "save_state", lambda: tell(CHECKPOINT))
    if small:
        vars(purpose)["build_backbone"] = _small_backbone
        vars(feeding)["xla_pays"] = lambda *_, **__: False  # trying takes longer than the training
    _before(whole_run, "write_bundle", lambda: tell("writing"))
    if (out.with_name(f"{out.name}.partial") / "job.json").exists():
        resume(out, reporter=Telling())
    elif not out.exists():
        asked = small_recipe() if small else recipe()
        train(data, out=out, recipe=asked, reporter=Telling(), checkpoint_every=0.0)


def _before(module: Any, name: str, tell: Any) -> None:
    real = getattr(module, name)

    def told(*arguments: Any, **options: Any) -> Any:
        tell()
        return real(*arguments, **options)

    setattr(module, name, told)


def _small_backbone(start: Any, recipe: Any) -> Any:
    """One block in each group: everything but the time that fifty layers take."""
    from greffon.backbone.resnet import resnet
    from greffon.weights.sets import usual_preprocessing

    side = recipe.image_size
    return resnet((1, 1, 1, 1), "thin", input_shape=(side, side, 3)), usual_preprocessing("thin"), []


def _moments(chance: random.Random, count: int, *, small: bool) -> list[tuple[int, float]]:
    """Phases, by number, early ones first (-1: a checkpoint), and seconds after they began."""
    if not small:
        return sorted((chance.randrange(-1, len(PHASES)), chance.uniform(0, _LONGEST)) for _ in range(count))
    phases = [number for number, name in enumerate(PHASES) if name not in _LEFT_OUT]
    ends = [len(phases) * part // count for part in range(count + 1)]
    return [(chance.choice(phases[start:end]), chance.uniform(0, _LONGEST_SMALL)) for start, end in pairwise(ends)]


def import_everything() -> None:
    """In the process that is forked: modules alone; no session, no thread."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras  # noqa: F401
    import lmdb  # noqa: F401
    import onnxruntime  # noqa: F401
    import sklearn.linear_model
    import sklearn.model_selection  # noqa: F401
    import tensorflow  # noqa: F401

    import greffon.training.resume
    import greffon.training.stages  # noqa: F401


def _pictures(folder: Path) -> Path:
    """A few of those that come with Greffon."""
    from greffon.pictures.demo import demo_pictures

    demo = demo_pictures(folder.parent / "demo")
    for kind in ("Bag", "Coat", "Sneaker"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for file in sorted((demo / "train" / kind).iterdir())[:16]:
            shutil.copy2(file, folder / kind)
    return folder


@contextmanager
def _folder(keep: Path | None) -> Any:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())
