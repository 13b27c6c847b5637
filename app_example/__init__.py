"""Ask your documents: a larger application around llmwire, and a user of it like any other.

`python -m app_example --help` tells how to run it.
"""
