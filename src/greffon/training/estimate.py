"""What a training will take, from seconds measured for its parts: the cost formula, without anything to run.

A network is a row of segments from the pictures to the classes. For each of them it is known what a picture costs
there: in the engine, once; in a training step and in a validation step, once per epoch. What a cut leaves to the
trunk and what to the tail is a share of each segment.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

SEGMENTS = ("early", "conv4", "conv5", "last-block", "head")
"""From the pictures on: all before conv4; conv4; conv5 but its last block; that block; the head."""


@dataclass(frozen=True)
class SegmentTimes:
    """What one segment costs.

    Attributes:
        trunk: seconds of the engine for one picture, float32.
        train: seconds of a training step for one picture, where the segment is in the tail.
        validation: seconds of a validation step for one picture, likewise.
        compile: seconds until the steps of a tail with this segment are compiled, beyond those of a tail without.
        measured: whether `train`, `validation` and `compile` were measured, or scaled from the segments behind it.
        slowness: how many times longer a step of a tail that begins here may take: as long as its threads need one
            after another, which is what they take where another process leaves them one processor.
    """

    trunk: float
    train: float
    validation: float
    compile: float
    measured: bool = True
    slowness: float = 1.0


@dataclass(frozen=True)
class SolveTimes:
    """What solving a linear head costs: seconds for so many pictures of so many features.

    Attributes:
        pictures: how many.
        features: of each.
        seconds: of one head, its penalty searched.
        folds: of repeated folds; 0 where none are taken.
    """

    pictures: int
    features: int
    seconds: float
    folds: float = 0.0

    def of(self, pictures: int) -> float:
        """Seconds for another number of pictures: a step of the solver costs pictures times coordinates."""
        return self.seconds * self._times(pictures)

    def folds_of(self, pictures: int) -> float:
        """Seconds of repeated folds of so many pictures."""
        return self.folds * self._times(pictures)

    def _times(self, pictures: int) -> float:
        return pictures * min(pictures, self.features) / max(1, self.pictures * min(self.pictures, self.features))


@dataclass(frozen=True)
class Int8Times:
    """What precision int8 costs: its engine's seconds over those of float32, and quantising in seconds."""

    ratio: float
    build: float


@dataclass(frozen=True)
class Measured:
    """Seconds of the parts of a training on this machine, on the user's own pictures.

    Attributes:
        start: from the command to a model with its weights; the import of Keras is in it where that was measured.
        scan: of one picture at its first sight: hash, and decodable to its last pixel.
        decode: of one picture, all threads at work.
        build: until an engine for the trunk is ready.
        write: bytes per second into the activation store.
        read: bytes per second out of it.
        end: from the last epoch to the written run.
        segments: by name, see `SEGMENTS`.
        int8: None where it cannot be had; `why_no_int8` says why.
        memory: bytes of the process with the model in it.
        shares_cores: whether decoding and the engine need the same processors, so that their times add up.
        copies: of looking for near-copies of one picture.
        proof: of one fingerprint of the whole model.
        solve: of solving a head, by the pooling of its features.
        xla: whether the steps of long stages were measured with XLA, because it pays here.
        spent: seconds that the measuring took.
    """

    start: float
    scan: float
    decode: float
    build: float
    write: float
    read: float
    end: float
    segments: Mapping[str, SegmentTimes]
    int8: Int8Times | None = None
    why_no_int8: str = ""
    memory: int = 0
    shares_cores: bool = True
    copies: float = 0.0
    proof: float = 0.0
    solve: Mapping[str, SolveTimes] = field(default_factory=dict)
    xla: bool = False
    spent: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class StageFacts:
    """One stage, as far as its cost goes.

    Attributes:
        name: of the stage.
        epochs: the most.
        batch_size: pictures per step.
        tail: for each segment the share of it that the tail holds, 0 to 1.
        has_trunk: whether anything is computed once.
        late: whether an earlier stage moves what is frozen here, so that the trunk runs when the stage begins.
        activation_bytes: of one picture at the cut, as they are stored.
        trainable: numbers that the optimizer moves.
        step_bytes: what a training step keeps for its gradients, for one picture.
        solved: whether its head is solved, without epochs.
        tried_epochs: epochs in which a learning rate is looked for.
        tried_steps: steps beyond those, likewise.
        judged: whether it is taken back where it does not help, for which it answers before and after.
        carried: whether what it begins with counts, too, for which it answers before.
    """

    name: str
    epochs: int
    batch_size: int
    tail: Mapping[str, float]
    has_trunk: bool
    late: bool
    activation_bytes: int
    trainable: int
    step_bytes: int
    solved: bool = False
    tried_epochs: int = 0
    tried_steps: int = 0
    judged: bool = False
    carried: bool = False


def _always(size: int) -> bool:
    return True


@dataclass(frozen=True)
class Workload:
    """How many pictures go where.

    Attributes:
        train: pictures to learn from.
        validation: pictures held out.
        views: augmentations kept of each training picture, the picture itself included.
        picture_bytes: of one decoded picture.
        fits: whether memory can hold so many bytes of activations.
        pools: ways to pool among which cross-validation chooses.
        copies: whether near-copies are looked for.
        folds: whether repeated folds are taken in the end: there is no test/, and the pictures are few enough.
    """

    train: int
    validation: int
    views: int = 1
    picture_bytes: int = 0
    fits: Callable[[int], bool] = _always
    pools: tuple[str, ...] = ("avg",)
    copies: bool = False
    folds: bool = False

    @property
    def looks_first(self) -> bool:
        """Whether the whole trunk runs over all pictures before they are split."""
        return self.copies or len(self.pools) > 1

    @property
    def pictures(self) -> int:
        """Of both sides."""
        return self.train + self.validation

    @property
    def rows(self) -> int:
        """Activations of both sides, all views."""
        return self.train * self.views + self.validation


@dataclass(frozen=True)
class Estimate:
    """What one plan will take.

    Attributes:
        first: seconds of a first run.
        slowest: seconds of a first run whose steps are all of the slow kind, see `SegmentTimes.slowness`.
        rerun: seconds of a run that finds its activations stored.
        memory: bytes that the process will fill, at most.
        disk: bytes of activations in the store.
        parts: seconds of the first run by what they go into.
        measured: whether all of its steps were measured, none scaled from others.
    """

    first: float
    slowest: float
    rerun: float
    memory: int
    disk: int
    parts: Mapping[str, float] = field(default_factory=dict)
    measured: bool = True


def estimate(stages: Sequence[StageFacts], work: Workload, times: Measured, *, int8: bool = False) -> Estimate:
    """Put measured seconds into the cost formula.

    Start, sight of the pictures, one pass of the deepest trunk with decoding beside it and writing behind it, what is
    made of pooled features (near-copies, the choice of a pooling, baselines), then for every stage solving, or
    compiling and epochs, and the end. A rerun reads where a first run computes, decodes and solves.

    Args:
        stages: in order.
        work: the pictures.
        times: measured.
        int8: whether the trunk runs in int8; pictures are then run in float32 too, to compare.

    Example:
        >>> from greffon.training.estimate import *
        >>> segment = SegmentTimes(trunk=0.01, train=0.001, validation=0.001, compile=1.0)
        >>> times = Measured(2.0, 0.0, 0.0, 1.0, 1e9, 1e9, 1.0, dict.fromkeys(SEGMENTS, segment))
        >>> tail = dict.fromkeys(SEGMENTS, 0.0) | {"head": 1.0}
        >>> head = StageFacts("head", 10, 32, tail, True, False, 4096, 0, 0)
        >>> parts = estimate([head], Workload(80, 20), times).parts
        >>> round(parts["trunk"], 1), round(parts["train"], 1)  # build 1 and 100 x 0.04; 10 epochs of 100 x 0.001
        (5.0, 1.0)
    """
    early = [stage for stage in stages if stage.has_trunk and not stage.late]
    looks = [_look(early, work, times)] if work.looks_first else []
    once = _pass([*early, *looks], work, times, int8=int8)
    late = sum(_pass([stage], work, times, int8=int8) for stage in stages if stage.has_trunk and stage.late)
    trained = [stage for stage in stages if not stage.solved]
    trying, trying_again = (
        sum(each) for each in zip((0.0, 0.0), *(_trying(it, work, times) for it in trained), strict=True)
    )
    training = [_training(stage, work, times) for stage in trained]
    solving, folds = _solving(stages, work, times), _folding(work, times)
    parts = {
        "start": times.start,
        "scan": work.pictures * times.scan,
        "trunk": once + late,
        "decode": sum(work.rows * times.decode for stage in stages if not stage.has_trunk),
        "copies": work.pictures * times.copies if work.copies else 0.0,
        "solve": solving + folds,
        "compile": sum(_compiling(stage, times) for stage in trained) + trying,
        "train": sum(training),
        "end": times.end + _proofs(stages) * times.proof,
    }
    first = sum(parts.values())
    slower = sum(seconds * (_slowness(stage, times) - 1.0) for seconds, stage in zip(training, trained, strict=True))
    reading = _stored([*early, *looks]) * work.rows / times.read
    return Estimate(
        first=first,
        slowest=first + slower,
        rerun=first - parts["scan"] - once - trying + trying_again + reading - solving - _thumbnails(work, times),
        memory=_memory(stages, work, times),
        disk=_stored([*stages, *looks]) * work.rows,
        parts=parts,
        measured=all(times.segments[name].measured for stage in trained for name in SEGMENTS if stage.tail[name] > 0),
    )


def _look(stages: Sequence[StageFacts], work: Workload, times: Measured) -> StageFacts:
    """The pass over all pictures before they are split, as a stage without a tail: features for each pooling."""
    averaged = any(stage.tail["head"] > 0 and sum(stage.tail.values()) == stage.tail["head"] for stage in stages)
    kept = [pool for pool in dict.fromkeys(("avg", *work.pools)) if not (pool == "avg" and averaged)]
    features = sum(times.solve[pool].features for pool in kept if pool in times.solve)
    tail = dict.fromkeys(SEGMENTS, 0.0)
    return StageFacts("look", 0, 1, tail, True, False, _BYTES * features, 0, 0)


def _solving(stages: Sequence[StageFacts], work: Workload, times: Measured) -> float:
    """Heads that are solved: one for each pooling to choose from, one for a stage, one to set beside the result.

    Each problem is solved once, and which pooling will be chosen is not known: the dearest is taken.
    """
    known = {pool: times.solve[pool] for pool in work.pools if pool in times.solve}
    compared, solved = len(work.pools) > 1, sum(stage.solved for stage in stages)
    chosen = sum(each.of(work.train) for each in known.values()) if compared else 0.0
    new = 0 if compared and work.views == 1 else solved  # of a stage on the pictures that the pooling was chosen by
    stage = new * max((each.of(work.train * work.views) for each in known.values()), default=0.0)
    beside = 0.0
    if work.copies and not compared and not (solved and work.views == 1) and "avg" in times.solve:
        beside = times.solve["avg"].of(work.train)
    return chosen + stage + beside


def _folding(work: Workload, times: Measured) -> float:
    """Repeated folds of the dearest pooling."""
    if not (work.folds and work.looks_first):
        return 0.0
    known = [times.solve[pool] for pool in work.pools if pool in times.solve]
    return max((each.folds_of(work.pictures) for each in known), default=0.0)


def _thumbnails(work: Workload, times: Measured) -> float:
    """What of the search for near-copies is decoding, which a rerun spares."""
    return work.pictures * min(times.copies, times.decode) if work.copies else 0.0


def _proofs(stages: Sequence[StageFacts]) -> int:
    """Fingerprints of the model: around every stage, and one more where a stage is trained."""
    return sum(2 if stage.solved else 3 for stage in stages)


def _slowness(stage: StageFacts, times: Measured) -> float:
    """Of the tail's first segment: the threads that run it run what is behind it."""
    return next((times.segments[name].slowness for name in SEGMENTS if stage.tail[name] > 0), 1.0)


def trunk_seconds(stages: Iterable[StageFacts], times: Measured) -> float:
    """Seconds of the engine for one picture, through the deepest of the stages' trunks."""
    stages = list(stages)
    return sum(
        max((1.0 - stage.tail[name] for stage in stages), default=0.0) * times.segments[name].trunk for name in SEGMENTS
    )


def _pass(stages: Sequence[StageFacts], work: Workload, times: Measured, *, int8: bool) -> float:
    """One pass of the trunk over all rows, for all of these stages."""
    if not stages:
        return 0.0
    engine = trunk_seconds(stages, times)
    build = times.build
    compared = 0.0
    if int8 and times.int8 is not None:
        build += times.int8.build
        compared = min(work.pictures, max(work.validation, _COMPARED)) * engine
        engine *= times.int8.ratio
    # On the same processors what one of the two takes, the other lacks; an accelerator leaves them to decoding.
    together = times.decode + engine if times.shares_cores else max(times.decode, engine)
    written = _stored(stages) / times.write
    return build + work.rows * (together + written) + compared


# Fewer held-out pictures than this say too little of int8, and some of the others are compared too.
_COMPARED = 200


def _training(stage: StageFacts, work: Workload, times: Measured) -> float:
    """All epochs of a stage, those in which a learning rate is looked for, and its answers."""
    train = sum(stage.tail[name] * times.segments[name].train for name in SEGMENTS)
    validation = sum(stage.tail[name] * times.segments[name].validation for name in SEGMENTS)
    if not _is_held(stage, work):  # then every epoch reads again, beside the steps
        read = (stage.activation_bytes / times.read) if stage.has_trunk else times.decode
        train, validation = max(train, read), max(validation, read)
    answers = 3 if stage.judged else 1 + stage.carried  # at the end; before and after, too
    epochs = (stage.epochs + stage.tried_epochs) * (work.train * train + work.validation * validation)
    return epochs + stage.tried_steps * stage.batch_size * train + answers * work.validation * validation


def _compiling(stage: StageFacts, times: Measured) -> float:
    """Seconds until a stage's steps are compiled."""
    return sum(stage.tail[name] * times.segments[name].compile for name in SEGMENTS)


def _trying(stage: StageFacts, work: Workload, times: Measured) -> tuple[float, float]:
    """Seconds in which a stage finds out whether XLA pays: the first time, and when it was found out before.

    Without XLA a few steps are timed; if the stage is long, with XLA too, and then the answer is remembered. The way
    that is taken is compiled already then.
    """
    step = stage.batch_size * sum(stage.tail[name] * times.segments[name].train for name in SEGMENTS)
    timed = _TRIED_STEPS * step
    if step * stage.epochs * -(-work.train // stage.batch_size) < XLA_TRIED:
        return timed, timed
    return timed + (_OTHERWISE if times.xla else 1 / _OTHERWISE) * (_compiling(stage, times) + timed), 0.0


# The trial itself is `stage_tail.xla_pays`; a plan reads these two without loading TensorFlow.
XLA_TRIED = 30.0
"""Seconds of a stage's steps from which on XLA is tried; a shorter one is over before both ways were."""
XLA_PAYS = 0.95
"""Share of the seconds without XLA that a step may take with it: what it saves is estimated from few steps."""
_TRIED_STEPS = 4
# What trying without XLA takes of what trying with it takes: most of that is compiling.
_OTHERWISE = 0.5


def _is_held(stage: StageFacts, work: Workload) -> bool:
    """Whether memory holds what the stage is fed with."""
    return work.fits(work.rows * (stage.activation_bytes if stage.has_trunk else work.picture_bytes))


def _stored(stages: Iterable[StageFacts]) -> int:
    """Bytes per row in the store; stages with the same cut share their records."""
    by_cut = {(stage.name == "look", *stage.tail.values()): stage for stage in stages if stage.has_trunk}
    return sum(stage.activation_bytes for stage in by_cut.values())


def _memory(stages: Sequence[StageFacts], work: Workload, times: Measured) -> int:
    """The process, what is held for the stages, and the largest step: gradients, optimizer, best weights."""
    held = sum(
        work.rows * (stage.activation_bytes if stage.has_trunk else work.picture_bytes)
        for stage in stages
        if _is_held(stage, work)
    )
    step = max(stage.batch_size * stage.step_bytes + 4 * _COPIES * stage.trainable for stage in stages)
    return times.memory + held + step


# Of a feature that is kept for the choice of a pooling, in float16.
_BYTES = 2
# Of every number that trains: its gradient, Adam's two moments, the best value.
_COPIES = 4
