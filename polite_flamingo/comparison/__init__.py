"""Two builds of the same input compared: what each keeps, which texts are preferred, what they cost."""
