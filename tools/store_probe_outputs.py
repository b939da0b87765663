"""Make src/greffon/assets/probes/: what the embedded weight sets give for the probe pictures.

Run it when the probe pictures (`PROBES_VERSION`) or an embedded weight file changed, and only while the tests that
compare these networks with their sources pass: what is stored is what later loadings are held against.

    python tools/store_probe_outputs.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from greffon import resnet50
from greffon.weights.sets import WEIGHT_SETS
from greffon.weights.stored_outputs import outputs_of, write_outputs

FOLDER = Path(__file__).parent.parent / "src" / "greffon" / "assets" / "probes"


def main() -> None:
    """Make one file per embedded weight file, and print what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder to write into")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for record in WEIGHT_SETS.values():
        for file in record.files:
            if file.url is None and file.sha256 is not None:
                model = resnet50(record.name, include_top=file.include_top)
                outputs = outputs_of(model, record.preprocessing)
                write_outputs(outputs, folder / f"{file.sha256}.npz")
                print(f"{record.name}: {file.sha256}.npz, features {outputs.features.shape}")  # noqa: T201


if __name__ == "__main__":
    main()
