"""Stage report: one page with all that an experiment found."""
