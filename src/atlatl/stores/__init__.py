"""What survives a restart: the stores behind `ports.Store`."""
