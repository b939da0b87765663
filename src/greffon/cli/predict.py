"""`greffon predict`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from greffon.cli.evaluate import MaxError, MinConfidence
from greffon.cli.output import Json, plain_table, print_json, reporter, show
from greffon.errors import DataError, InputError

if TYPE_CHECKING:
    from rich.table import Table

    from greffon.bundle.predict import Prediction, Predictor
    from greffon.evaluation.abstain import Selected

_MANY = 32  # files from which on progress is shown; a folder always is many
_LISTED = 20  # pictures in an error message


def predict(
    run: Annotated[Path, Parameter(help="the folder that greffon train wrote")],
    files: Annotated[
        tuple[Path, ...],
        Parameter(
            help="pictures, and folders of pictures; those that cannot be read are listed, the others named, and the "
            "exit code is 3"
        ),
    ],
    /,
    *,
    top: Annotated[int, Parameter(help="how many classes to name")] = 3,
    min_confidence: MinConfidence = None,
    max_error: MaxError = None,
    out: Annotated[
        Path | None,
        Parameter(
            name=["--out", "-o"],
            show_default=False,
            help="write one row per picture into this .csv, .jsonl or .parquet file, all classes in it; when "
            "interrupted, the same command goes on where it was",
        ),
    ] = None,
    overwrite: Annotated[
        bool, Parameter(negative=(), show_default=False, help="replace the file of --out if it exists")
    ] = False,
    json: Json = False,
) -> int:
    """Name what is in pictures.

    Pictures that cannot be read are listed on standard error (with --json: among the predictions, with an `error`);
    the others are named all the same. With --min-confidence or --max-error those that the run is not sure of are
    called "not sure" (with --json: `sure` is false; in the file of --out: a column `sure`).

    Exit code: 0 where every picture could be read, sure or not; 3 where at least one could not.

    Example: greffon predict runs/first holiday/ cat.jpg --top 1

    Example: greffon predict runs/first holiday/ --out holiday.parquet
    """
    if top < 1:
        raise InputError(f"--top must be at least 1. Got {top}")
    absent = [str(file) for file in files if not file.exists()]
    if absent:
        raise InputError("\n".join(["there is no such file or folder:", *_shortened(absent)]))
    if out is None and overwrite:
        raise InputError("--overwrite is for the file of --out, which was not given")
    from greffon.bundle.predict import load

    predictor = load(run)
    sure = _Sure.of(predictor, min_confidence, max_error)
    if out is not None:
        return _to_file(predictor, files, out, overwrite=overwrite, sure=sure, json=json)
    found = _predicted(predictor, files, top if sure is None else None)
    progress = reporter(to_stderr=True)
    unreadable = [f"{one.path}: {one.error}" for one in found if one.error is not None]
    if len(unreadable) == len(found):
        raise DataError("\n".join([f"none of {len(found)} pictures could be read:", *_shortened(unreadable)]))
    for note in predictor.notes:
        progress.warn(note)
    if json:
        print_json({"run": run, **_values(found, sure, top), "unreadable": len(unreadable), "notes": predictor.notes})
    else:
        show(_table([one for one in found if one.error is None], sure, top))
        for line in unreadable:
            progress.warn(f"cannot be read: {line}")
        if sure is not None:
            progress.note(f"On the validation pictures, {sure.found}")
    return DataError.exit_code if unreadable else 0


@dataclass(frozen=True)
class _Sure:
    """From which confidence on pictures are answered, and what counts as confidence."""

    found: "Selected"
    several_labels: bool

    @classmethod
    def of(cls, predictor: "Predictor", min_confidence: float | None, max_error: float | None) -> "_Sure | None":
        if min_confidence is None and max_error is None:
            return None
        from greffon.evaluation.answers import wanted_confidence

        found = wanted_confidence(predictor.bundle, min_confidence=min_confidence, max_error=max_error)
        return None if found is None else cls(found, predictor.bundle.several_labels)

    def answers(self, one: "Prediction") -> bool:
        """Whether a picture that could be read is answered."""
        scores = one.scores.values()
        confidence = min(max(score, 1 - score) for score in scores) if self.several_labels else max(scores)
        return confidence >= self.found.min_confidence


def _predicted(predictor: "Predictor", files: tuple[Path, ...], top: int | None) -> "list[Prediction]":
    found = []
    with ExitStack() as stack:
        advance = None
        if len(files) > _MANY or any(file.is_dir() for file in files):
            advance = stack.enter_context(reporter(to_stderr=True).bar("predict", total=None))
        for one in predictor.stream([str(file) for file in files], top=top):
            found.append(one)
            if advance is not None:
                advance(1)
    return found


def _to_file(
    predictor: "Predictor", files: tuple[Path, ...], out: Path, *, overwrite: bool, sure: "_Sure | None", json: bool
) -> int:
    from greffon.bundle.batch import check_out_file, names_of, predict_to_file

    progress = reporter(to_stderr=True)
    check_out_file(out, overwrite=overwrite)
    names = names_of([str(file) for file in files])
    answers = None if sure is None else sure.answers
    try:
        with progress.bar("predict", total=len(names)) as advance:
            result = predict_to_file(predictor, names, out, overwrite=overwrite, sure=answers, advance=advance)
    except KeyboardInterrupt:
        progress.note("what was answered is kept: the same command goes on from there")
        raise
    for note in predictor.notes:
        progress.warn(note)
    unreadable = [f"{path}: {why}" for path, why in result.unreadable]
    for line in _shortened(unreadable):
        progress.warn(f"cannot be read: {line}")
    if result.kept:
        progress.note(f"{result.kept:,} of {result.pictures:,} answers are those of the interrupted job")
    if json:
        counts = {"pictures": result.pictures, "kept": result.kept, "unreadable": len(unreadable)}
        print_json({"run": predictor.bundle.path, "out": result.out, **counts, "notes": predictor.notes})
    else:
        show(f"{result.pictures:,} pictures in {result.out}")
    return DataError.exit_code if unreadable else 0


def _table(found: "list[Prediction]", sure: "_Sure | None", top: int) -> "Table":
    from rich.text import Text

    table = plain_table("picture", "is", "probabilities")
    for one in found:
        scores = ", ".join(f"{label} {score:.3f}" for label, score in list(one.scores.items())[:top])
        answer = ", ".join(one.labels) or "none of them"
        if sure is not None and not sure.answers(one):
            answer = "not sure"
        table.add_row(Text(str(one.path)), Text(answer), Text(scores))
    return table


def _values(found: "list[Prediction]", sure: "_Sure | None", top: int) -> dict[str, Any]:
    """The predictions as plain values; where answers have to be sure, whether each is, and how many are."""
    predictions = [one.to_dict() for one in found]
    if sure is None:
        return {"predictions": predictions}
    for one, values in zip(found, predictions, strict=True):
        values["scores"] = dict(list(one.scores.items())[:top])
        values["sure"] = None if one.error is not None else sure.answers(one)
    answered = sum(values["sure"] is True for values in predictions)
    return {"predictions": predictions, "answered": answered, "sure_from": sure.found.to_dict()}


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - _LISTED
    return lines if more <= 0 else [*lines[:_LISTED], f"... and {more} more"]
