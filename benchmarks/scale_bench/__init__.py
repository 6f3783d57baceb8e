"""What a run of ten million documents asks of single parts, measured on parts of one: `python -m scale_bench.judge`."""
