"""The file formats of entries."""
