"""From overrides and yaml files to one validated config per run."""
