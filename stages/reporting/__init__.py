"""The page of an experiment: figures, overlays and HTML, made from arrays and dataclasses alone."""
