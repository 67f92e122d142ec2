"""The data plane beside its peers: calls, starts, memory, bodies, gRPC."""
