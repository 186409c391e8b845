"""The rules of top-down pose estimation: skeleton, geometry, heatmaps, flip, OKS and AP."""
