"""The words of the page, explained for a reader who is new to the field."""

from __future__ import annotations

__all__ = ["GLOSSARY"]

GLOSSARY = {
    "Instance": "One person in an image, with a box and labelled joints.",
    "OKS": (
        "Object keypoint similarity between a predicted and a labelled instance, from 0 to 1. It measures how near the joints "
        "are, relative to the size of the instance and to how precisely humans label each joint."
    ),
    "AP": (
        "Average precision of COCO's keypoint evaluation: the mean over ten OKS thresholds from .50 to .95. AP50 and AP75 use "
        "the thresholds .50 (roughly found) and .75 (found well). APM and APL are for medium and large instances. AR is the "
        "average recall."
    ),
    "Heatmap": "A network's output for one joint: high where the joint is. A decoder turns its peak into a position.",
    "Quarter offset, DARK, centroid, soft-argmax": (
        "Decoders. Quarter offset moves the position of the highest cell by a quarter of a cell towards its higher neighbour. "
        "DARK fits a smooth peak to the logarithm of the heatmap and takes its top. The centroid is the mean position of the "
        "cells that binarization sets to 1. Soft-argmax is the mean position of all cells, weighted by a sharp softmax (LPN)."
    ),
    "Flip test": "The mean of the heatmaps of the crop and of its mirror image is used, as is usual for published AP.",
    "OKS-NMS": "If several predictions in an image are almost equal by OKS, only the one with the highest score is kept.",
    "PT, ST": "Primary teacher, which sees the image; senior teacher, which also sees the segmentation mask of the instance.",
    "Bits": "A teacher's heatmap as the student learns it: 1 near the peak, 0 elsewhere. Also called cached targets.",
    "View": "One crop of every instance: the plain one, or one with random scale, rotation and mirroring.",
    "Held out": (
        "Training instances that no network trains on. The decoder is chosen on them, so that the validation set stays unseen."
    ),
    "Baseline": "The same network as the student, trained equally long on labels alone.",
    "Control": "The same network and training as the senior teacher, but without masks.",
}
