"""What is measured: the rankings of encoders by gold labels, and the teacher, with gold labels and without."""
