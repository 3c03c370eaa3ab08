"""One file per protocol: how pretrained weights are evaluated; file name = protocol=NAME."""
