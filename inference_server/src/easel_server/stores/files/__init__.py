"""Files that clients upload, to begin images with."""
