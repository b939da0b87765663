"""What a check finds: one record for every kind of finding, and the rows that it gives the manifest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from greffon.pictures.quarantine import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Severity = Literal["wrong", "look", "note"]
"""`wrong`: it falsifies what is learned or measured, and is certain; `look`: likely, and only the user can tell;
`note`: good to know."""

SEVERITIES: tuple[Severity, ...] = ("wrong", "look", "note")
_NAMED = 3


@dataclass(frozen=True)
class Finding:
    """Something that was found about some pictures, or about all of them.

    Attributes:
        kind: in a few words, for programs: `exact copies`, `likely label errors`, ...
        severity: how much it matters.
        sentence: for people.
        paths: the pictures that something can be decided about; none where it is about classes or all pictures.
        score: by which findings of one kind are ordered, the worst first; larger is worse.
        each: what the manifest says of each picture; it begins with a verb whose subject is the picture, and the
            names of the others follow where there are several. By default the sentence.
        manifest: severity of its rows in the manifest; "" for no rows.
        examples: pictures that show it, where there are no `paths`.
        accepted: whether the user has decided about it.
    """

    kind: str
    severity: Severity
    sentence: str
    paths: tuple[str, ...] = ()
    score: float = 0.0
    each: str = ""
    manifest: Literal["", "warning", "quarantine", "ignored"] = "warning"
    examples: tuple[str, ...] = field(default=(), repr=False)
    accepted: bool = False

    def reason(self, path: str) -> str:
        """What the manifest says of one of its pictures.

        Example:
            >>> from greffon.checking.findings import Finding
            >>> Finding("exact copies", "look", "", ("a", "b"), each="is an exact copy of").reason("b")
            'is an exact copy of a'
        """
        others = [other for other in self.paths if other != path]
        if not self.each or not others:
            return self.each or self.sentence
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        return f"{self.each} {', '.join(others[:_NAMED])}{more}"

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "sentence": self.sentence,
            "paths": list(self.paths),
            "score": self.score,
            "accepted": self.accepted,
        }


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first: by severity, then by kind as they came, then by score."""
    findings = list(findings)
    kinds = list(dict.fromkeys(each.kind for each in findings))
    return sorted(findings, key=lambda each: (SEVERITIES.index(each.severity), kinds.index(each.kind), -each.score))


def manifest_rows(findings: Iterable[Finding], hashes: Mapping[str, str]) -> pl.DataFrame:
    """The manifest of findings: a row for each picture of each.

    Args:
        findings: in the order of the rows.
        hashes: path -> hash of its content; of a file that is no picture there is none.

    Returns:
        A table with the columns of `greffon.pictures.quarantine.SCHEMA`; no decisions.

    Example:
        >>> from greffon.checking.findings import Finding, manifest_rows
        >>> manifest_rows([Finding("outlier", "look", "is like no other", ("a.jpg",))], {"a.jpg": "1"}).row(0)
        ('a.jpg', '1', 'outlier', 'warning', 'is like no other', '')
    """
    rows = [
        (path, hashes.get(path, ""), each.kind, each.manifest, each.reason(path), "")
        for each in findings
        if each.manifest
        for path in each.paths
    ]
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    return frame.unique(["path", "hash", "kind", "reason"], keep="first", maintain_order=True)


def with_decisions(manifest: pl.DataFrame, earlier: pl.DataFrame | None) -> pl.DataFrame:
    """The manifest with what the user has decided in an earlier one.

    A decision is about a picture of the same content and a finding of the same kind. Decisions about what was not
    found this time, such as pictures that are left out, stay too.
    """
    if earlier is None:
        return manifest
    decided = earlier.filter(pl.col("decision") != "").select(*SCHEMA)
    known = {(path, content, kind): decision for path, content, kind, _, _, decision in decided.iter_rows()}
    keys = list(manifest.select("path", "hash", "kind").iter_rows())
    decisions = [known.get(key, "") for key in keys]
    kept = [row for row in decided.iter_rows() if row[:3] not in set(keys)]
    manifest = manifest.with_columns(pl.Series("decision", decisions, pl.String))
    return pl.concat([manifest, pl.DataFrame(kept, schema=SCHEMA, orient="row")])


def with_accepted(findings: Sequence[Finding], manifest: pl.DataFrame) -> list[Finding]:
    """The findings, those marked of whose pictures every one is decided about."""
    decided = {
        (path, kind): decision
        for path, kind, decision in manifest.select("path", "kind", "decision").iter_rows()
        if decision != ""
    }

    def accepted(finding: Finding) -> bool:
        decisions = [decided.get((path, finding.kind)) for path in finding.paths]
        # What cannot be read cannot be used, whatever was decided.
        known = ("leave out",) if finding.manifest == "quarantine" else ("leave out", "use")
        return bool(finding.manifest and decisions) and all(decision in known for decision in decisions)

    return [replace(each, accepted=True) if accepted(each) else each for each in findings]
