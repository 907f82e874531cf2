"""Numbers about texts and models: Rouge-L, politeness, win rates, the alignment tax, with their intervals."""
