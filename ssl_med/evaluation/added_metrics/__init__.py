"""Test metrics beside those of the tasks themselves, one file each; the file's name is the metric's."""
