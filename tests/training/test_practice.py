"""Good practice in a whole stage: each option changes what a training does, in the way that it says."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

keras = pytest.importorskip("keras")

import greffon  # noqa: E402
from greffon.backbone.freeze import freeze  # noqa: E402
from greffon.backbone.graft import graft  # noqa: E402
from greffon.backbone.resnet import resnet  # noqa: E402
from greffon.bundle.write import weights_digest  # noqa: E402
from greffon.errors import InputError  # noqa: E402
from greffon.training.optimizers import pretrained_values  # noqa: E402
from greffon.training.practice import Soup, finish  # noqa: E402
from greffon.training.progress import Reporter  # noqa: E402
from greffon.training.samples import Samples  # noqa: E402
from greffon.training.stages import Stages  # noqa: E402

SIDE, CLASSES, TRAIN, HELD_OUT = 64, 3, 21, 12
HEAD = greffon.Stage(name="head", epochs=3, learning_rate=1e-2, batch_size=8, patience=None)
BLOCK = greffon.Stage(name="block", unfreeze="conv5", epochs=1, learning_rate=1e-3, batch_size=8)


@pytest.fixture(scope="module")
def samples():
    random = np.random.default_rng(0)
    labels = np.arange(TRAIN + HELD_OUT) % CLASSES
    pixels = random.normal(90, 50, (len(labels), SIDE, SIDE, 3))
    pixels[np.arange(len(labels)), :, :, labels] += 12
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    rows = np.arange(len(labels))
    return Samples(
        keys=[b"%016d" % row for row in rows],
        targets=np.eye(CLASSES, dtype="float32")[labels],
        train=rows[:TRAIN],
        validation=rows[TRAIN:],
        load=lambda wanted: [pixels[wanted]],
        shape=(SIDE, SIDE, 3),
        views=rows[:TRAIN, None],
        groups=rows[:TRAIN],
    )


@pytest.fixture(scope="module")
def run(samples):
    """Runs stages on one network from the same weights, the same ones only once."""
    keras.utils.set_random_seed(0)
    model = graft(resnet((1, 1, 1, 1), variant="v1", input_shape=(SIDE, SIDE, 3)), CLASSES, preprocessing="tf")
    model.layers[-1].kernel.assign(30 * model.layers[-1].kernel)  # answers that are not all alike
    start, done = model.get_weights(), {}

    def stages(*chosen, again=False):
        key = repr(chosen)
        if again or key not in done:
            model.set_weights(start)
            recipe = greffon.Recipe(image_size=SIDE, stages=chosen, seed=3)
            job = Stages(model, recipe, samples, None, Reporter())
            results, answers = job.run()
            done[key] = SimpleNamespace(
                results=results,
                rows=results[-1].history,
                loss=float(-np.log(answers[samples.targets[samples.validation] > 0]).mean()),
                digest=weights_digest(model),
                notes=job.notes,
                weights=[np.array(value) for value in model.get_weights()],
            )
        return done[key]

    stages.start = [np.array(value) for value in start]
    stages.model = model
    return stages


def column(result, name):
    return [row[name] for row in result.rows]


def test_the_history_has_the_learning_rate_of_each_epoch(run):
    cosine = run(HEAD.replace(schedule="cosine", warmup=1))
    rates = column(cosine, "learning_rate")
    assert rates[0] == pytest.approx(1e-2 * (1 / 3 + 2 / 3 + 1) / 3, rel=1e-3)  # 21 pictures: three steps
    assert rates[1] > rates[2] > 0
    assert column(run(HEAD), "learning_rate") == pytest.approx([1e-2] * 3)
    assert column(cosine, "loss") != column(run(HEAD), "loss")


def test_a_schedule_goes_with_a_rate_that_is_looked_for_and_stops_early(run):
    done = run(HEAD.replace(schedule="one-cycle", learning_rate="auto", epochs=4, patience=1))
    peak = done.results[0].more["chosen_learning_rate"]
    assert 0.1 * peak < column(done, "learning_rate")[0] < peak


def test_smoothed_labels_change_the_training_and_not_what_it_is_judged_by(run):
    still = HEAD.replace(epochs=1, learning_rate=1e-9)
    plain, smooth = run(still), run(still.replace(label_smoothing=0.5))
    assert column(smooth, "val_loss") == pytest.approx(column(plain, "val_loss"), rel=1e-5)
    assert column(smooth, "loss") != pytest.approx(column(plain, "loss"), rel=1e-4)
    assert column(smooth, "accuracy") == column(plain, "accuracy")


def test_mixed_pictures_give_another_training_which_the_seed_decides(run):
    mixed = run(HEAD.replace(mixup=1.0))
    assert mixed.digest != run(HEAD).digest
    assert run(HEAD.replace(mixup=1.0), again=True).digest == mixed.digest
    first = run(HEAD.replace(epochs=1, learning_rate=1e-9, mixup=1.0))
    assert column(first, "val_loss") == pytest.approx(
        column(run(HEAD.replace(epochs=1, learning_rate=1e-9)), "val_loss"), rel=1e-5
    )


def test_the_mean_of_the_weights_is_validated_and_kept(run):
    last = HEAD.replace(keep_best=False, learning_rate=3e-2)
    plain, averaged = run(last), run(last.replace(ema=0.999))
    assert column(averaged, "loss") == pytest.approx(column(plain, "loss"), rel=1e-4)  # the steps are the same
    assert column(averaged, "val_loss") != pytest.approx(column(plain, "val_loss"), rel=1e-3)
    assert averaged.loss == pytest.approx(column(averaged, "val_loss")[-1], rel=1e-3)
    best = run(last.replace(ema=0.999, keep_best=True))
    assert best.loss == pytest.approx(min(column(averaged, "val_loss")), rel=1e-3)


def test_a_soup_is_no_worse_than_its_best_epoch(run):
    done = run(HEAD.replace(epochs=5, soup=3, learning_rate=5e-2))
    soup, losses = done.results[0].more["soup"], np.array(column(done, "val_loss"))
    assert soup["epochs"][0] == losses.argmin() + 1
    assert set(soup["epochs"]) <= set(losses.argsort()[:3] + 1)
    assert soup["loss"] <= soup["loss_of_best"] == pytest.approx(losses.min(), rel=1e-3)
    assert done.loss == pytest.approx(soup["loss"], rel=1e-3)


def test_a_soup_takes_what_helps_and_leaves_what_does_not():
    """One weight whose loss is its distance to 1."""
    weight = keras.Variable(np.zeros(1, "float32"))

    def loss():
        return abs(float(keras.ops.convert_to_numpy(weight)[0]) - 1.0)

    soup = Soup(3, [weight])
    for epoch, value in enumerate([0.9, 5.0, 1.2, 0.0, 1.05]):
        weight.assign([value])
        soup.on_epoch_end(epoch, {"val_loss": loss()})
    soup.on_epoch_end(9, {"val_loss": float("nan")})
    other = Soup(3, [weight])
    other.restore(soup.state())
    assert finish([other], loss) == {"soup": {"epochs": [5, 1], "loss_of_best": 0.05, "loss": 0.025}}
    assert float(keras.ops.convert_to_numpy(weight)[0]) == pytest.approx(0.975)
    assert finish([], loss) == Soup(2, [weight]).cook(loss) == {}


def gap(run, samples, done):
    """How far answers with the stored statistics are from those with the statistics of the pictures to learn from."""
    run.model.set_weights(done.weights)
    freeze(run.model, "conv5", batch_norm="train")
    pixels = samples.load(samples.train)[0].astype("float32")
    stored = np.asarray(run.model(pixels, training=False))
    return np.abs(stored - np.asarray(run.model(pixels, training=True))).max()


def test_a_mean_of_weights_has_the_statistics_of_a_fresh_pass(run, samples):
    """Of all 21 pictures at once, in each BatchNormalization that was unfrozen."""
    moved = BLOCK.replace(batch_norm="train", keep_best=False)
    averaged = run(moved.replace(ema=0.5))
    assert gap(run, samples, averaged) < 5e-3
    assert gap(run, samples, run(moved)) > 0.05
    assert averaged.loss == pytest.approx(column(averaged, "val_loss")[-1], rel=1e-3), "validated with them, too"


@pytest.mark.large
def test_frozen_statistics_stay_what_they_are(run):
    averaged = run(BLOCK.replace(ema=0.5, soup=2))
    names = [variable.path for variable in run.model.weights]
    pairs = zip(names, averaged.weights, run.start, strict=True)
    assert all(np.array_equal(now, before) for name, now, before in pairs if "moving_" in name)


class Statistics:
    """Stands where those of BatchNormalization stand."""

    def __init__(self, weight):
        self.weight, self.renewed = weight, []

    def renew(self):
        self.renewed.append(float(keras.ops.convert_to_numpy(self.weight)[0]))


def test_the_statistics_of_a_soup_are_taken_anew_and_those_of_one_epoch_are_not():
    weight = keras.Variable(np.zeros(1, "float32"))

    def loss():
        return abs(float(keras.ops.convert_to_numpy(weight)[0]) - 1.0)

    for values, renewed in (([0.9, 1.2], [1.05, 1.05]), ([1.0, 9.0], [5.0])):
        statistics = Statistics(weight)
        soup = Soup(3, [weight], statistics)
        for epoch, value in enumerate(values):
            weight.assign([value])
            soup.on_epoch_end(epoch, {"val_loss": loss()})
        soup.cook(loss)
        assert statistics.renewed == pytest.approx(renewed)


def test_what_a_stage_begins_with_is_kept_where_it_is_better(run):
    worse = greffon.Stage(name="worse", epochs=2, learning_rate=10.0, batch_size=8, optimizer="sgd", patience=1)
    kept = run(HEAD, worse.replace(carry_best=True))
    assert kept.digest == run(HEAD).digest
    assert kept.results[1].best == 0
    assert len(kept.rows) == 1, "patience counts from the beginning"
    assert run(HEAD, worse).digest != kept.digest


@pytest.mark.large
def test_decay_towards_the_pretrained_weights_holds_them_there_in_later_stages_too(run):
    """A second stage draws towards what the network began with, not towards what the first one made of it."""
    strong = BLOCK.replace(name="again", learning_rate=1e-6, l2_sp=9e5, keep_best=False)
    far, near = (run(BLOCK.replace(keep_best=False), it) for it in (strong.replace(l2_sp=0.0), strong))
    anchors = pretrained_values(run.model)
    places = [n for n, variable in enumerate(run.model.weights) if id(variable) in anchors]
    moved = [sum(float(np.abs(it.weights[n] - run.start[n]).sum()) for n in places) for it in (far, near)]
    assert moved[1] < 0.1 * moved[0]


@pytest.mark.large
def test_cutmix_and_rates_by_group_act_in_the_backbone(run):
    runs = [run(it) for it in (BLOCK, BLOCK.replace(group_decay=0.1), BLOCK.replace(cutmix=1.0))]
    assert len({it.digest for it in runs}) == 3
    assert runs[2].notes == runs[0].notes
    assert any("CutMix needs places" in note for note in run(HEAD.replace(cutmix=1.0)).notes)


def test_many_trainings_at_once_refuse_what_they_would_leave_out(run):
    x, y = np.full((4, SIDE, SIDE, 3), 200.0), np.eye(CLASSES)[[0, 1, 2, 0]]
    with pytest.raises(InputError, match="knows nothing of mixup, schedule"):
        greffon.fit_many(run.model, [HEAD.replace(mixup=0.2, schedule="cosine")], x, y, validation_data=(x, y))
