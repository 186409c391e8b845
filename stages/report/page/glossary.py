"""What the page's words mean, for a reader who is new to the field."""

from __future__ import annotations

__all__ = ["GLOSSARY"]

GLOSSARY = {
    "OKS": (
        "Object keypoint similarity of a predicted and a labelled person, from 0 to 1: how near the joints are, measured "
        "against the person's size and against how exactly people label each joint."
    ),
    "AP": (
        "Average precision of COCO's keypoint evaluation: the mean over ten limits of OKS, .50 to .95. AP50 and AP75 are at "
        "the limits .50 (found at all) and .75 (found well); APM and APL are of medium and large people; AR is average recall."
    ),
    "Heatmap": "A network's output for one joint: high where the joint is. A decoder turns its peak into a place.",
    "Quarter offset, DARK, centroid": (
        "Decoders. Quarter offset moves the highest cell a quarter of a cell towards the higher neighbour; DARK takes the top "
        "of a smooth peak fitted to the heatmap's logarithm; the centroid is the mean place of the cells that binarization "
        "sets to 1."
    ),
    "Flip test": "The mean of the heatmaps of the crop and of its mirror image, as is usual for published AP.",
    "OKS-NMS": "Of several predictions that are one person by OKS, the one with the highest score stays.",
    "PT, ST": "Primary teacher, which sees the image; senior teacher, which sees the person's mask too.",
    "Bits": "A teacher's heatmap as the student is taught it: 1 near the peak, 0 elsewhere. Also called cached targets.",
    "View": "One crop of every person: the plain one, or one with scale, rotation and mirroring drawn at random.",
    "Held out": "Training people whom the student does not train on. The decoder is chosen on them, not on the validation set.",
    "Baseline": "The same student, trained equally long on labels alone.",
    "Control": "The network of the senior teacher with the senior's training, but never shown a mask.",
}
