"""From records to samples: what every source is made with."""
