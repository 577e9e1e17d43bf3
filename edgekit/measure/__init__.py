"""What an artifact weighs, takes and gets right, measured through its own runtime."""
