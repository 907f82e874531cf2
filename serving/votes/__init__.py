"""The page on which people vote on blind pairs."""
