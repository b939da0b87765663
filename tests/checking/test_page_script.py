"""The page's script, run by Node where it is there: decisions made by clicks come out as the manifest."""

import json
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

import greffon
from greffon.pictures.quarantine import SCHEMA, load_manifest

SCRIPT = Path(greffon.__file__).parent / "checking" / "templates" / "page.js"

# As much of a browser as the script asks for.
BROWSER = """
const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
const listeners = {};
const button = (decision) => ({ dataset: { decision }, setAttribute(name, value) { this[name] = value; } });
const choices = given.choices.map((row) => ({
  dataset: { row: String(row) }, children: [button("leave out"), button("use")],
  addEventListener(_, listener) { this.click = listener; },
}));
const status = {};
let saved = null;
globalThis.Blob = class { constructor(parts) { saved = parts.join(""); } };
globalThis.URL = { createObjectURL: () => "blob:", revokeObjectURL() {} };
globalThis.document = {
  getElementById: (id) => ({
    manifest: { textContent: JSON.stringify(given.manifest) }, decided: status,
    save: { addEventListener(_, listener) { listeners.save = listener; } },
  })[id],
  querySelectorAll: () => choices,
  createElement: () => ({ click() {} }),
};
eval(given.script);
for (const [place, child] of given.clicks) choices[place].click({ target: choices[place].children[child] });
listeners.save();
const pressed = choices.map((choice) => choice.children.map((child) => child["aria-pressed"]));
console.log(JSON.stringify({ saved, told: status.textContent, pressed }));
"""


@pytest.fixture(scope="module")
def node():
    found = shutil.which("node")
    if found is None:
        pytest.skip("needs Node")
    return found


def clicked(node, rows, clicks, choices):
    given = {
        "manifest": {"columns": list(SCHEMA), "rows": rows},
        "script": SCRIPT.read_text(encoding="utf-8"), "clicks": clicks, "choices": choices,
    }  # fmt: skip
    done = subprocess.run([node, "-e", BROWSER], input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


ROWS = [
    ["a.png", "1", "copies", "warning", "is a copy of b.png, c.png", ""],
    ['odd, "name"\n.png', "2", "dark", "warning", "is dark", "use"],
    ["a.png", "1", "copies", "warning", "is a copy of d.png", ""],
]


def test_clicks_come_out_as_the_manifest(node, tmp_path):
    done = clicked(node, ROWS, [(0, 0), (1, 0)], [0, 1])
    (tmp_path / "manifest.csv").write_text(done["saved"], encoding="utf-8", newline="")
    manifest = load_manifest(tmp_path / "manifest.csv")
    # One finding may be told twice of a picture: a decision is about both.
    assert manifest["decision"].to_list() == ["leave out", "leave out", "leave out"]
    expected = pl.DataFrame(ROWS, schema=SCHEMA, orient="row").drop("decision")
    assert manifest.drop("decision").equals(expected)
    assert done["told"] == "3 decided"
    assert done["pressed"] == [["true", "false"], ["true", "false"]]


def test_a_second_click_takes_it_back(node):
    done = clicked(node, ROWS, [(0, 1), (0, 1), (1, 1)], [0, 1])
    assert done["told"] == "0 decided"
    assert done["pressed"] == [["false", "false"], ["false", "false"]]
