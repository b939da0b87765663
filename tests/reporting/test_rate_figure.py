"""The curve of a range test in a run's report."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from greffon.reporting.facts import _rates
from greffon.reporting.figures import rates_figure


def test_the_curve_is_drawn_from_the_record():
    steps = _rates({"learning_rates": [1e-4, 1e-3, 1e-2], "losses": [1.0, 0.5, 4.0]})
    assert steps == ((1e-4, 1.0), (1e-3, 0.5), (1e-2, 4.0))
    svg = ElementTree.fromstring(rates_figure(steps))
    assert svg.get("aria-label") == "range test of the learning rate"


@pytest.mark.parametrize(
    "recorded",
    [None, 3, {}, {"learning_rates": 1, "losses": []}, {"learning_rates": ["x", 0, -1], "losses": [1, 1, None]}],
)
def test_a_record_that_holds_no_curve(recorded):
    assert _rates(recorded) == ()
