"""The bi-encoder that embeds documents and labels: loading, encoding, saving."""
