"""Heads are solved once: within a training, and by one that poses the same problem again."""

from types import SimpleNamespace

import numpy as np
import pytest

from greffon.frozen.store import ActivationStore
from greffon.training import solver as module
from greffon.training.solved_before import SolvedBefore
from greffon.training.solver import Solver

ROWS = np.arange(60)
TARGETS = np.eye(3)[ROWS % 3]


@pytest.fixture
def store(tmp_path):
    with ActivationStore(tmp_path / "store") as store:
        yield store


@pytest.fixture
def solved(monkeypatch):
    """What was searched, solved in memory and solved in blocks, in that order."""
    done = []
    for name in ("search", "solve", "solve_streamed"):
        real = getattr(module, name)

        def counted(*args, name=name, real=real, **options):
            done.append(name)
            return real(*args, **options)

        monkeypatch.setattr(module, name, counted)
    return done


def source(seed=0):
    features = np.random.default_rng(seed).normal(size=(60, 5)).astype("float32")
    features[:, :3] += TARGETS
    return SimpleNamespace(shapes=[(5,)], gather=lambda rows: [features[rows]])


def fresh(store, **options):
    """A solver of another training."""
    return Solver(before=SolvedBefore(store), **options)


def same(one, other):
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("kernel", "bias", "strength", "log_loss")]
    if one.held_out is None or other.held_out is None:
        assert one.held_out is other.held_out
    else:
        pairs.append((one.held_out, other.held_out))
    return one.several_labels == other.several_labels and all(np.array_equal(*pair, equal_nan=True) for pair in pairs)


def test_a_later_training_is_given_the_same_bits(store, solved):
    first = fresh(store).solve(source(), ROWS, TARGETS)
    again = fresh(store).solve(source(), ROWS, TARGETS)
    assert same(first, again)
    assert solved == ["search"]
    assert first.held_out is not None


def test_a_search_that_was_not_solved_is_not_searched_again(store, solved):
    found = fresh(store).search(source(), ROWS, TARGETS)
    later = fresh(store).search(source(), ROWS, TARGETS)
    assert (later.strength, later.log_loss) == (found.strength, found.log_loss)
    assert np.array_equal(later.held_out, found.held_out)
    assert same(later.probe(), found.probe())
    assert solved == ["search", "solve"]


@pytest.mark.parametrize("change", ["features", "targets", "seed", "groups", "weights", "strength", "several_labels"])
def test_another_problem_is_solved_anew(store, solved, change):
    other = {
        "seed": 1,
        "groups": ROWS // 2,
        "weights": np.where(ROWS < 30, 1.0, 2.0),
        "strength": 0.01,
        "several_labels": True,
    }
    options = {change: other[change]} if change in other else {}
    targets = np.roll(TARGETS, 1, axis=1) if change == "targets" else TARGETS
    fresh(store).solve(source(), ROWS, TARGETS)
    new = fresh(store).solve(source(int(change == "features")), ROWS, targets, **options)
    alone = Solver().solve(source(int(change == "features")), ROWS, targets, **options)
    assert same(new, alone)
    assert solved == ["search"] * 3


def test_a_given_penalty_has_no_held_out_answers(store, solved):
    first, again = (fresh(store).solve(source(), ROWS, TARGETS, strength=0.1) for _ in range(2))
    assert same(first, again)
    assert again.held_out is None
    assert np.isnan(again.log_loss)
    assert solved == ["search"]


def test_in_blocks(store, solved):
    first = fresh(store, most_bytes=600).solve(source(), ROWS, TARGETS)
    again = fresh(store, most_bytes=600).solve(source(), ROWS, TARGETS)
    assert same(first, again)
    assert solved == ["solve_streamed"]
    one_picture_more_like_another = source()
    features = one_picture_more_like_another.gather(ROWS)[0].copy()
    features[41] = features[40]
    changed = SimpleNamespace(shapes=[(5,)], gather=lambda rows: [features[rows]])
    assert not same(fresh(store, most_bytes=600).solve(changed, ROWS, TARGETS), first)


def test_other_versions_of_what_solves_do_not_count(store, solved, monkeypatch):
    fresh(store).solve(source(), ROWS, TARGETS)
    monkeypatch.setattr("greffon.training.solved_before._solvers", lambda: ("another",))
    fresh(store).solve(source(), ROWS, TARGETS)
    assert solved == ["search"] * 2


def test_what_takes_too_much_room_is_not_kept(store, solved, monkeypatch):
    monkeypatch.setattr("greffon.training.solved_before._MOST_BYTES", 100)
    first, again = (fresh(store).solve(source(), ROWS, TARGETS) for _ in range(2))
    assert same(first, again)
    assert solved == ["search"] * 2
    assert sum(trunk.size_bytes for trunk in store.info()) < 5000
