"""The parts of benchmarks/scale.py: what ten million documents ask of an engine, an index, a stage."""
