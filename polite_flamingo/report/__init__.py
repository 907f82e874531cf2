"""From statistics and a gallery to one self-contained HTML file."""
