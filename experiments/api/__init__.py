"""The functions of `import ssl_med`: what the command line does, as Python calls."""
