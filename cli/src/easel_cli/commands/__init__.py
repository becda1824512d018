"""One command a file: what is gathered, decided and rendered."""
