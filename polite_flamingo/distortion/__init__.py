"""Good responses made terse, broken and cold: the pairs that Polite Flamingo learns from (paper, section 3.1)."""
