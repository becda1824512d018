"""The APIs that clients speak, one folder each; a folder renames, and what it renames to is ``generation``'s."""
