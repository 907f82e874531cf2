"""Reading files that nobody vouches for: text, JSON, tables, tars, downloads."""
