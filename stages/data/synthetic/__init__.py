"""The embedded data set: drawn people, annotated like COCO."""
