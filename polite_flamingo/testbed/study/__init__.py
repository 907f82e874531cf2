"""What studies of several seeds share: measures with intervals, claims with verdicts, and how a page shows them."""
