"""`greffon.diagnose`: tries out why a run is bad, one cause after the other, each by an experiment with a number."""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from greffon.diagnosing.balancing import try_balance
from greffon.diagnosing.labelling import CAUSE as LABELS
from greffon.diagnosing.labelling import SHIFTED, try_labels, try_shifts
from greffon.diagnosing.leaking import CAUSE as LEAK
from greffon.diagnosing.leaking import try_leak
from greffon.diagnosing.mislabelled import try_label_noise
from greffon.diagnosing.modes import CAUSE as GAP
from greffon.diagnosing.modes import try_modes
from greffon.diagnosing.needed import try_more_pictures
from greffon.diagnosing.outputs import ONE_CLASS, ORDER, try_class_order, try_one_class
from greffon.diagnosing.preparing import try_preprocessing
from greffon.diagnosing.rates import CAUSE as RATE
from greffon.diagnosing.rates import try_rates
from greffon.diagnosing.result import Diagnosis, Finding, not_tested, ranked
from greffon.diagnosing.size import CAUSE as SIZE
from greffon.diagnosing.size import try_head_size
from greffon.diagnosing.subject import Subject
from greffon.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from greffon.bundle.predict import Predictor
    from greffon.evaluation.evaluate import Bars
    from greffon.pictures.sources.columns import Columns

NAME = "diagnosis.json"
"""The file's name in a run's folder."""

_FEWEST = 20

# In an order in which each one can take away what those before it found: features of a better preprocessing, labels in
# their right places. Then everything else is tried without these.
_ON_PICTURES: tuple[Callable[[Subject], Finding], ...] = (try_preprocessing, try_shifts, try_labels)
_ON_DATA: tuple[Callable[[Subject], Finding], ...] = (try_label_noise, try_balance, try_more_pictures)
_ON_THE_RUN: dict[str, Callable[[Subject], Finding]] = {
    LEAK: try_leak,
    ORDER: try_class_order,
    ONE_CLASS: try_one_class,
    GAP: try_modes,
    RATE: try_rates,
    SIZE: try_head_size,
}


def diagnose(
    run: str | Path | Predictor,
    data: Any = None,
    *,
    columns: Columns | None = None,
    pictures: int = 1000,
    save: bool = True,
    progress: Bars | None = None,
) -> Diagnosis:
    """Try out why a run is bad, and say what each cause costs.

    Each cause is an experiment: what would the number be without it? Wrong preprocessing is tried by preparing the
    pictures in the other ways, a learning rate by training again at others, a leak by learning without the copies, and
    so on. Test pictures are not looked at.

    Args:
        run: a run's folder, or what `greffon.load` gave.
        data: where the pictures are now, whatever `greffon.train` takes; None: where they were when it was trained.
            They are known by their content.
        columns: which columns of a table say what.
        pictures: the most that are looked at, at least 20; of more, as many are drawn by chance.
        save: whether to write `diagnosis.json` into the run's folder, where `greffon report` finds it.
        progress: shows how far it is.

    Returns:
        A finding for each cause, ranked: those that were found first, the one that costs most before the others.

    Raises:
        InputError: it is no run, the data or an option cannot be used, or the network is no graph of layers.
        DataError: the pictures of the run are not found.

    Example:
        >>> import greffon, tempfile
        >>> from greffon.pictures.demo import demo_pictures
        >>> from greffon.training.progress import Reporter
        >>> folder = tempfile.mkdtemp()
        >>> recipe = greffon.Recipe(weights="thin", image_size=32, stages=[greffon.Stage(optimizer="lbfgs")])
        >>> run = greffon.train(demo_pictures(folder), out=folder + "/run", recipe=recipe, reporter=Reporter())
        >>> found = greffon.diagnose(run.path, pictures=100)
        >>> len(found.findings)
        12
    """
    if isinstance(pictures, bool) or not isinstance(pictures, int) or pictures < _FEWEST:
        raise InputError(f"pictures must be a whole number of at least {_FEWEST}, got {pictures!r}")
    from greffon.bundle.predict import Predictor, load
    from greffon.frozen.store import ActivationStore
    from greffon.training.progress import Reporter

    predictor = run if isinstance(run, Predictor) else load(run)
    bars = progress or Reporter()
    subject = Subject(predictor, data, columns=columns, most=pictures, store=ActivationStore(), progress=bars)
    findings = [experiment(subject) for experiment in (*_ON_PICTURES, *_ON_DATA)]
    for cause, experiment in _ON_THE_RUN.items():
        moved = "the run learned other labels than those that fit, so its answers say nothing of this"
        findings.append(not_tested(cause, moved) if subject.labels_moved else experiment(subject))
    right = float(subject.right.mean())
    notes = tuple(dict.fromkeys(subject.notes))
    found = Diagnosis(ranked(_explained(findings)), len(subject.frame), len(subject.val), right, notes)
    return _saved(found, subject.bundle.path / NAME) if save else found


def _explained(findings: list[Finding]) -> list[Finding]:
    """Findings without those that another one says more about: labels that are only moved are not shuffled."""
    causes = {it.cause for it in findings if it.verdict == "found"}
    if SHIFTED in causes:
        return [not_tested(LABELS, SHIFTED) if it.cause == LABELS and it.verdict == "found" else it for it in findings]
    return findings


def _saved(found: Diagnosis, file: Path) -> Diagnosis:
    """Written beside and renamed; a folder that cannot be written to is a note."""
    from greffon.bundle.manifest import plain

    beside = file.with_name(f".{file.name}-{secrets.token_hex(4)}.part")
    try:
        beside.write_text(json.dumps(plain(found.to_dict()), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        note = f"{file} cannot be written: {error.strerror or error}"
        return replace(found, notes=(*found.notes, note))
    finally:
        beside.unlink(missing_ok=True)
    return replace(found, path=file)
