"""The HTTP application of `serve`: endpoints, probes, responses."""
