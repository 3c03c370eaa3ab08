"""Other recipes that `make bench ARGS=baseline` trains beside ours; each is a script with one line of JSON as its answer."""
