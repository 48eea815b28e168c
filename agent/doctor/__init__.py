"""What a machine needs to be a node, looked at piece by piece: `fernd agent doctor`."""
