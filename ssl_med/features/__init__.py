"""One file per analysis of what a network has learned; the file's name is the analysis'."""
