"""What every test shares: the folder of tests on the import path, and one thread a process."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import torch

sys.path.insert(0, str(Path(__file__).parent))
# The machine that runs the tests may have two cores: workers of several processes must not starve each other.
torch.set_num_threads(1)
cv2.setNumThreads(0)
