"""Votes of people on blind pairs: what is shown, where votes are kept, and what they say."""
