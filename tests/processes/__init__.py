"""Real worker processes that really train. Every test has a bound, and sees afterwards that nobody is left."""
