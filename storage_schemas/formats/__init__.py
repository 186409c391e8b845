"""What is in the files of entries."""
