"""The tracking stack of the manifests, run for real on this machine."""
