"""Scores of predicted poses: OKS, COCO AP, and intervals."""
