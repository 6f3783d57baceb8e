"""Reading, checking and sharding what users bring: plain functions over the configuration and the run directory."""
