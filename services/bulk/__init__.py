"""Embedding many texts: in batches, in parallel, once each, and never paid for twice."""
