"""What is on disk: shards, exports, the ledger of an output folder, and where its rows come from."""
