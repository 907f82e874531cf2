"""What lies on disk: shards, exports, the ledger of an output folder, its journal and its provenance."""
