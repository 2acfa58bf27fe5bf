"""Brings in what the suites of the staging fleet share."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

pytest_plugins = ["stage_fixtures"]
