"""One file per family of foreign weights; the file's name is the family's."""
