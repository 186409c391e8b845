"""Stage prepare: from a COCO-format dataset to an instance table."""
