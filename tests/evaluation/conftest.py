from __future__ import annotations

import sys
from pathlib import Path

# Runs are made up in one place.
sys.path.insert(0, str(Path(__file__).parent.parent / "bundle"))
