"""The report of a run: one HTML file that says what was trained, how good it is, and shows why."""

from greffon.reporting.write import Report, report

__all__ = ["Report", "report"]
