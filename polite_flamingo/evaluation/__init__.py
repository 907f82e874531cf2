"""Numbers about texts and models: Rouge-L, politeness."""
