"""What benchmarks share whose cells are builds: the cell, its record, the table, the runner."""
