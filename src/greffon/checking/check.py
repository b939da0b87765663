"""`greffon.check`: pictures looked at before anything is learned from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import polars as pl

from greffon.checking.classes import too_small, torn_groups, unequal
from greffon.checking.copies import exact_copies, near_copies, together
from greffon.checking.findings import Finding, manifest_rows, ordered, with_accepted, with_decisions
from greffon.checking.page import INSTALL, require_page
from greffon.checking.report import MANIFEST, Check
from greffon.checking.scanned import of_the_scan, scanned_pictures
from greffon.errors import DataError, InputError
from greffon.pictures.catalog import listed
from greffon.pictures.quarantine import load_manifest, obey
from greffon.pictures.resize import check_rule
from greffon.pictures.split import group_numbers
from greffon.training.progress import ConsoleReporter, Reporter
from greffon.training.samples import GoneBadError
from greffon.training.start import Start, find_start

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from greffon.checking.features import Network
    from greffon.pictures.catalog import Catalog
    from greffon.pictures.decode import ResizeRule
    from greffon.pictures.near import NearPair
    from greffon.pictures.scan import Scanned
    from greffon.pictures.sources.columns import Columns

    Array = np.ndarray[Any, Any]

_LEAST_SIZE, _LARGEST_SIZE = 32, 1024


def check(  # noqa: PLR0913  # all but one are options, by keyword only
    data: Any,
    *,
    weights: str = "imagenet",
    image_size: int = 224,
    resize: Literal["auto", "crop", "stretch", "pad"] = "auto",
    columns: Columns | None = None,
    manifest: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Check:
    """Look at pictures before they are learned from: all of them, test/ too.

    Files that cannot be read, copies and near-copies across a given split or under different labels, likely label
    errors, outliers, classes that are hard to tell apart, imbalance, and whether the classes can be told apart by the
    files' size, colour or camera alone. One pass of the network, whose activations a training finds in the store.

    Args:
        data: whatever `greffon.train` takes.
        weights: a weight set's name, a weight file or a run, whose features tell what is alike; `none`: what needs no
            features only.
        image_size: side of the network's input, in pixels, 32 to 1024.
        resize: how pictures become square; `auto`: as the weight set's record says.
        columns: which columns of a table say what; by default those with usual names.
        manifest: an earlier manifest with decisions, which are obeyed and kept; by default the one in `out`.
        out: a folder for the page (check.html), the manifest (manifest.csv) and what the network sees (preview.png).
        seed: of folds and shuffles.
        reporter: told what happens; by default the console.

    Returns:
        What was found. `ok` says whether nothing is wrong; `greffon.train(..., manifest=...)` obeys the manifest.

    Raises:
        InputError: an option, the weights or the folder cannot be used, or cleanlab or Jinja2 are missing.
        DataError: there is no picture that can be read, or a table makes no sense.

    Example:
        >>> import tempfile
        >>> from greffon.checking.check import check
        >>> from greffon.pictures.demo import demo_pictures
        >>> from greffon.training.progress import Reporter
        >>> pictures = demo_pictures(tempfile.mkdtemp())
        >>> found = check(pictures, weights="none", reporter=Reporter())
        >>> found.ok, found.catalog.counts()["Bag"]
        (True, 100)
    """
    start = _prepared(weights, image_size, resize, page=out is not None)
    earlier = _earlier(manifest, out)
    job = _Job(start, image_size, resize, seed, reporter or ConsoleReporter())
    found = job.run(job.read(data, columns, earlier), earlier)
    if out is not None:
        found.save(out)
    return found


def _prepared(weights: str, image_size: int, resize: str, *, page: bool) -> Start | None:
    """The weights; everything that can be refused is refused before a picture is read."""
    if isinstance(image_size, bool) or not isinstance(image_size, int):
        raise InputError(f"image_size must be a whole number, got {image_size!r}")
    if not _LEAST_SIZE <= image_size <= _LARGEST_SIZE:
        raise InputError(f"image_size must be {_LEAST_SIZE} to {_LARGEST_SIZE} pixels, got {image_size}")
    if resize != "auto":
        check_rule(image_size, resize)
    if page:
        require_page()
    if weights == "none":
        return None
    start = find_start(weights)
    try:
        import cleanlab  # noqa: F401
    except ImportError as error:
        raise InputError(
            f'likely label errors are looked for with cleanlab: {INSTALL}, or check with weights="none"'
        ) from error
    return start


def _earlier(manifest: str | Path | None, out: str | Path | None) -> pl.DataFrame | None:
    """Decisions that were made already; writing the manifest anew must not lose them."""
    if manifest is None and out is not None and (Path(out) / MANIFEST).is_file():
        manifest = Path(out) / MANIFEST
    return None if manifest is None else load_manifest(manifest)


@dataclass(frozen=True)
class _Seen:
    """What features tell."""

    features: Array
    pairs: list[NearPair]


class _Job:
    """One check."""

    def __init__(self, start: Start | None, size: int, resize: str, seed: int, reporter: Reporter) -> None:
        self.start, self.size, self.seed, self.reporter = start, size, seed, reporter
        self.resize = resize
        self.notes: list[str] = []

    def read(self, data: Any, columns: Columns | None, earlier: pl.DataFrame | None) -> Catalog:
        """All pictures but those that were left out."""
        from greffon.pictures.sources.choose import catalog_of

        with self.reporter.bar("reading pictures", total=None) as advance:
            catalog = catalog_of(data, columns=columns, to="evaluate", advance=advance)
        if earlier is not None:
            frame, notes = obey(catalog.frame, earlier)
            left_out = set(frame.filter(pl.col("state") == "quarantined")["path"]) - set(catalog.quarantined["path"])
            catalog = replace(catalog, frame=frame.filter(~pl.col("path").is_in(list(left_out))))
            self.notes += notes
            if left_out:
                self.notes.append(f"{len(left_out):,} pictures are left out by the manifest")
            if not len(catalog.ok):
                raise DataError("no picture is left: the manifest leaves all out that can be read")
        return catalog

    def run(self, catalog: Catalog, earlier: pl.DataFrame | None) -> Check:
        """Look; again without them where pictures go bad meanwhile."""
        network = self._network()
        scanned = scanned_pictures(catalog, self.reporter)
        while True:
            try:
                seen = self._seen(network, catalog)
                break
            except GoneBadError as gone:
                catalog = _without(catalog, gone)
                if not len(catalog.ok):
                    raise
        findings = self._findings(catalog, scanned, seen)
        hashes = dict(catalog.frame.select("path", "hash").iter_rows())
        manifest = with_decisions(manifest_rows(findings, hashes), earlier)
        notes = tuple(self.notes)
        for note in notes:
            self.reporter.note(note)
        return Check(catalog, tuple(with_accepted(findings, manifest)), manifest, notes, self.size, self._rule(network))

    def _network(self) -> Network | None:
        if self.start is None:
            self.notes.append(
                "without a network there is no search for near-copies, label errors, outliers and classes that are "
                "hard to tell apart"
            )
            return None
        from greffon.checking.features import build_network

        network = build_network(self.start, self.size)
        self.notes += network.notes
        return network

    def _rule(self, network: Network | None) -> ResizeRule:
        if self.resize != "auto":
            return cast("ResizeRule", self.resize)
        return network.resize if network is not None else "crop"

    def _seen(self, network: Network | None, catalog: Catalog) -> _Seen | None:
        if network is None:
            return None
        from greffon.checking.features import features_of
        from greffon.frozen.store import ActivationStore
        from greffon.training.near_copies import near_pairs

        features = features_of(network, catalog, self.size, self._rule(network), self.reporter)
        with self.reporter.bar("looking for near-copies", total=None):
            return _Seen(features, near_pairs(catalog, catalog.ok, features, ActivationStore()))

    def _findings(self, catalog: Catalog, scanned: Mapping[str, Scanned], seen: _Seen | None) -> list[Finding]:
        pairs = seen.pairs if seen else []
        alike = together(catalog, pairs)
        found = [*exact_copies(catalog), *near_copies(catalog, pairs), *torn_groups(catalog)]
        found += too_small(catalog, alike)
        if seen is not None:
            found += self._by_features(catalog, seen, group_numbers(catalog.ok, alike))
        found += unequal(catalog)
        found += self._shortcuts(catalog, scanned, group_numbers(catalog.ok, alike))
        found += of_the_scan(catalog, scanned)
        return ordered(found)

    def _by_features(self, catalog: Catalog, seen: _Seen, groups: Array) -> list[Finding]:
        from greffon.checking.outliers import outliers

        paths = catalog.ok["path"].to_list()
        found = self._by_probe(catalog, seen, groups, paths)
        return [*found, *outliers(seen.features, paths, groups=groups)]

    def _by_probe(self, catalog: Catalog, seen: _Seen, groups: Array, paths: Sequence[str]) -> list[Finding]:
        from greffon.checking.confusion import hard_to_tell_apart
        from greffon.checking.labels import held_out_probabilities, label_errors

        targets = catalog.targets(catalog.ok)
        several = catalog.several_labels
        rows = self._judged(catalog, targets, groups)
        if not len(rows):
            return []
        targets, paths = targets[rows], [paths[row] for row in rows]
        with self.reporter.bar("likely label errors", total=None, unit="partitions") as advance:
            probabilities = held_out_probabilities(
                seen.features[rows], targets, groups=groups[rows], several_labels=several, seed=self.seed,
                advance=advance,
            )  # fmt: skip
        if probabilities is None:
            self.notes.append("there are too few different pictures for likely label errors to be looked for")
            return []
        known = catalog.labels_of(catalog.ok)
        labels = [known[row] for row in rows]
        errors = label_errors(probabilities, labels, catalog.class_names, paths, several_labels=several)
        if several:
            return errors
        doubtful = [path for each in errors for path in each.paths]
        given = targets.argmax(axis=1)
        return [
            *errors, *hard_to_tell_apart(probabilities, given, catalog.class_names, paths, without=doubtful)
        ]  # fmt: skip

    def _judged(self, catalog: Catalog, targets: Array, groups: Array) -> Array:
        """Rows whose labels can be cross-validated; none where these are of one class. What is left out is said."""
        from greffon.checking.labels import crossable

        has = targets.sum(axis=0) > 0
        if has.sum() < 2 or catalog.several_labels:
            return np.arange(len(targets) if has.sum() > 1 else 0)
        rows = crossable(targets, groups)
        kept = targets[rows].sum(axis=0) > 0
        if (has & ~kept).any():
            names = [name for name, out in zip(catalog.class_names, has & ~kept, strict=True) if out]
            self.notes.append(
                "classes with one picture (copies aside) are left out of the search for likely label errors: "
                f"{listed(names)}"
            )
        return rows if kept.sum() > 1 else rows[:0]

    def _shortcuts(self, catalog: Catalog, scanned: Mapping[str, Scanned], groups: Array) -> list[Finding]:
        from greffon.checking.shortcut import shortcuts

        if catalog.several_labels:
            self.notes.append("pictures may have several labels: whether a shortcut tells them apart is not tested")
            return []
        pictures = [scanned[path] for path in catalog.ok["path"]]
        given = catalog.targets(catalog.ok).argmax(axis=1)
        return shortcuts(pictures, given, catalog.class_names, groups=groups, seed=self.seed)


def _without(catalog: Catalog, gone: GoneBadError) -> Catalog:
    """The catalog with pictures in quarantine that cannot be read any more."""
    reasons = {content: str(error) for content, error in gone.errors.items()}
    bad = (pl.col("state") == "ok") & pl.col("hash").is_in(list(reasons))
    frame = catalog.frame.with_columns(
        state=pl.when(bad).then(pl.lit("quarantined")).otherwise(pl.col("state")),
        reason=pl.when(bad).then(pl.col("hash").replace_strict(reasons, default="")).otherwise(pl.col("reason")),
    )
    return replace(catalog, frame=frame)
