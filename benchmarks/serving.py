"""How fast `greffon serve` answers, asked by a second process on this machine (`asking.py`).

    python benchmarks/serving.py [--run RUN] [--pictures PICTURE ...] [--seconds 6] [--rounds 2] [-- SERVE OPTIONS]

Without a run, one is trained on generated pictures with the weights `thin`, and JPEG files of 480 x 480 pixels are
sent. It takes about four minutes. Each round measures one request in flight, many, one again, 70 % of the most at even
and at random times, three times as many as it can answer, and the most again beside that. Service and client share
the machine's processors with each other and with all else that runs: both their processor times count, and the load is
noted. Nothing is asserted; the rows go into the table `serving` of docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))

from made_up import arrays, write_folder
from rows import Options, Row

_SERVE = "import sys; from greffon.cli.app import main; sys.exit(main(['serve', *sys.argv[1:]]))"
_ASKING = Path(__file__).with_name("asking.py")
_SECONDS, _SIDE, _SENT = 6.0, 480, 24
_ALLOWED = 5.0  # milliseconds beyond decoding and model


def measure(options):
    """Rows of the service on `thin`, and of one picture at full width against Keras."""
    seconds = 0.3 if options.smoke else _SECONDS
    with tempfile.TemporaryDirectory(prefix="greffon-bench-") as place:
        run = train(Path(place), options)
        sent = write_folder(Path(place) / "sent", _SENT, _SIDE) if options.data is None else options.data
        pictures = sorted(sent.rglob("*.jpg"))[:_SENT]
        found = ask(run, pictures, seconds=seconds, rounds=options.rounds)
    return [*rows(found), *one_picture(options)]


def train(place, options):
    """A run on generated pictures, for its size and not for its answers."""
    import greffon
    from greffon.training.progress import Reporter

    stage = greffon.Stage(epochs=1, patience=None, unfreeze="none")
    recipe = greffon.Recipe(
        weights="thin", image_size=64 if options.smoke else 224, head=greffon.Head(), stages=(stage,)
    )
    data = write_folder(place / "data", 40, 256)
    greffon.train(data, out=place / "run", recipe=recipe, reporter=Reporter())
    return place / "run"


def ask(run, pictures, *, seconds, rounds, in_flight=(8, 16), serve=()):
    """Start the service and the client; what `asking.everything` measured, and the load before and after."""
    command = [sys.executable, "-c", _SERVE, str(run), "--port", "0", *serve]
    environment = {**os.environ, "GREFFON_API_KEYS": ""}
    service = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    try:
        address = re.search(r"http://([\d.]+):(\d+)", service.stdout.readline())
        plan = json.dumps({"rounds": rounds, "seconds": seconds, "in_flight": list(in_flight)})
        before = os.getloadavg()[0]
        asked = subprocess.run(
            [sys.executable, str(_ASKING), address[1], address[2], str(service.pid), plan, *map(str, pictures)],
            stdout=subprocess.PIPE,
            check=True,
        )
        return {"rounds": json.loads(asked.stdout), "load": (before, os.getloadavg()[0])}
    finally:
        service.terminate()
        service.wait()
        service.stdout.close()


def rows(found):
    """The table's rows of what was measured."""
    rounds, load = found["rounds"], found["load"]
    loaded = f"load {load[0]:.1f} before and {load[1]:.1f} after, on {os.cpu_count()} processors"
    return [_throughput(rounds, loaded), _overhead(rounds), *_late(rounds), *_overload(rounds)]


def _throughput(rounds, loaded):
    alone = [(one["alone"]["rate"] + one["again"]["rate"]) / 2 for one in rounds]
    best = [max(one["many"], key=lambda number, one=one: one["many"][number]["rate"]) for one in rounds]
    many = [one["many"][number] for one, number in zip(rounds, best, strict=True)]
    return Row(
        name="serving/many",
        what="`greffon serve`, thin, many requests in flight",
        other=f"{statistics.median(alone):.1f} pictures/s, one in flight",
        ours=f"{_middle(many, 'rate'):.1f} pictures/s, {best[0]} in flight",
        ratios=[one["rate"] / other for one, other in zip(many, alone, strict=True)],
        target=1.25,
        note=f"median {_middle([one['alone'] for one in rounds], 'median'):.1f} ms with one in flight; processor time "
        f"of service and client for a picture: {_middle([one['alone'] for one in rounds], 'work'):.1f} ms with one, "
        f"{_middle(many, 'work'):.1f} ms with many; {loaded}",
        table="serving",
        extra={"rounds": rounds},
    )


def _overhead(rounds):
    beyond = [min(one["alone"]["beyond"], one["again"]["beyond"]) for one in rounds]
    return Row(
        name="serving/beyond",
        what="one picture: what is neither decoding nor the model, median",
        other=f"{_ALLOWED:.0f} ms, allowed",
        ours=f"{statistics.median(beyond):.2f} ms",
        ratios=[_ALLOWED / one for one in beyond],
        target=1.0,
        table="serving",
    )


def _late(rounds):
    for name, words in (("even", "at even times"), ("random", "at random times")):
        found = [one[name] for one in rounds]
        errors = sum(count for one in found for status, count in one["statuses"].items() if status != "200")
        yield Row(
            name=f"serving/p99-{name}",
            what=f"70 % load, {words}: three medians over the 99th percentile",
            other=f"{_middle(found, 'p99'):.1f} ms, 99th percentile",
            ours=f"{_middle(found, 'median'):.1f} ms, median",
            ratios=[3 * one["median"] / one["p99"] for one in found],
            target=1.0,
            note=f"{errors} of {sum(sum(one['statuses'].values()) for one in found)} requests were not answered",
            table="serving",
        )


def _overload(rounds):
    statuses = [one["over"]["statuses"] for one in rounds]
    before, after = zip(*(one["memory"] for one in rounds), strict=True)
    beside = [(max(many["rate"] for many in one["many"].values()) + one["beside"]["rate"]) / 2 for one in rounds]
    yield Row(
        name="serving/overload",
        what="3 times as many as it can answer: pictures per second",
        other=f"{statistics.median(beside):.1f}, the most, before and after",
        ours=f"{_middle([one['over'] for one in rounds], 'rate'):.1f}",
        ratios=[one["over"]["rate"] / most for one, most in zip(rounds, beside, strict=True)],
        target=0.9,
        note="answers by status: " + "; ".join(", ".join(f"{k}: {v}" for k, v in one.items()) for one in statuses),
        table="serving",
    )
    yield Row(
        name="serving/memory",
        what="3 times as many as it can answer: resident memory",
        other=f"{before[-1] / 1e6:.0f} MB before",
        ours=f"{after[-1] / 1e6:.0f} MB after",
        ratios=[a / b for a, b in zip(before, after, strict=True)],
        target=0.9,
        table="serving",
    )


def one_picture(options):
    """One decoded picture at full width: ONNX Runtime as the service uses it, Keras' `predict`, Keras' direct call."""
    import keras
    import numpy as np

    import greffon
    from greffon.bundle.onnx_form import keras_answers, onnx_form
    from greffon.bundle.runner import OnnxRunner

    side = 64 if options.smoke else 224
    model = greffon.graft(greffon.resnet50(weights=None, input_shape=(side, side, 3)), 10, preprocessing="caffe")
    pixels = arrays(8, 0, side)[0][0]
    content, why = onnx_form(model, [f"class {n}" for n in range(10)], pixels, keras_answers(model, pixels))
    if content is None:
        raise RuntimeError(why)
    engine, picture = OnnxRunner(content), pixels[:1]
    as_floats = picture.astype(np.float32)
    sides = {
        "ours": lambda: engine.run([picture]),
        "predict": lambda: model.predict(as_floats, verbose=0),
        "call": lambda: keras.ops.convert_to_numpy(model(as_floats, training=False)),
    }
    rounds = [_medians(sides, 2 if options.smoke else 15) for _ in range(options.rounds)]
    for name, words, target in (("predict", "`model.predict`", 1.8), ("call", "`model(x, training=False)`", 1.3)):
        yield Row(
            name=f"serving/one-{name}",
            what=f"one picture, full width, against {words}",
            other=f"{1000 * statistics.median(one[name] for one in rounds):.1f} ms",
            ours=f"{1000 * statistics.median(one['ours'] for one in rounds):.1f} ms",
            ratios=[one[name] / one["ours"] for one in rounds],
            target=target,
            table="serving",
        )


def _medians(sides, count):
    """Seconds of each side, taken in turn."""
    times = {name: [] for name in sides}
    for number in range(count + 2):
        for name, function in sides.items():
            start = time.perf_counter()
            function()
            if number >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(all_) for name, all_ in times.items()}


def _middle(found, key):
    return statistics.median(one[key] for one in found)


def main():
    """Measure, print the rows, keep them in benchmarks/results.json and write the page."""
    import report
    from results import Results, machine

    words = sys.argv[1:]
    place = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="asks this run and keeps nothing; else one is made")
    parser.add_argument("--pictures", type=Path, nargs="+", help="files that are sent, with --run")
    parser.add_argument("--data", type=Path, help="a folder whose JPEG files are sent, in place of generated ones")
    parser.add_argument("--seconds", type=float, default=_SECONDS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="see that it works: short, and nothing is kept")
    given = parser.parse_args(words[:place])
    print(machine(), flush=True)
    if given.run is not None:
        if not given.pictures:
            parser.error("--run needs --pictures to send")
        found = ask(given.run, given.pictures, seconds=given.seconds, rounds=given.rounds, serve=words[place + 1 :])
        print(report.markdown(rows(found)))
        return
    start = time.perf_counter()
    measured = list(measure(Options(rounds=given.rounds, data=given.data, smoke=given.smoke)))
    print(report.markdown(measured))
    if not given.smoke:
        results = Results()
        results.put("serving", measured, on=machine())
        results.seconds["serving"] = round(time.perf_counter() - start)
        results.write()
        print(*report.write(results), sep="\n")


if __name__ == "__main__":
    main()
