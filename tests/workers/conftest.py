"""Lets workers, which are processes of their own, import the toy sessions next to this file."""

import os
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
