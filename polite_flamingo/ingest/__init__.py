"""Raw datasets -> shards: the steps of an ingest, its result on disk, mixtures of several sources."""
