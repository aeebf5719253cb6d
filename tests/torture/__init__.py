"""What may happen to files, made to happen: short in `make test`, long in `make torture`."""
