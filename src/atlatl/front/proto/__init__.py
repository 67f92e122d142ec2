"""The messages of the gRPC surface, generated from `function.proto` by `make proto`."""
