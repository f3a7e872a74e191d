"""Delivery of bitstreams to a UE over HTTP: the server, the reception and its timing."""
