"""Stage targets: the teachers' heatmaps as packed bits."""
