"""One file per form in which weights leave; the file's name is that of `to=NAME`."""
