"""One method a file; shared parts start with an underscore."""
