"""What all tests share."""

from hypothesis import settings

# The first example of a test may import openai, and a busy machine is no error: time is not what is tested.
settings.register_profile("llmwire", deadline=None)
settings.load_profile("llmwire")
