"""Where real data and published test vectors lie, if they are there: a folder `shared` beside the checkout."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
VECTORS = DATA / "vectors"
