"""What every test shares: one thread a process."""

from __future__ import annotations

import cv2
import torch

# The machine that runs the tests may have two cores: workers of several processes must not starve each other.
torch.set_num_threads(1)
cv2.setNumThreads(0)
