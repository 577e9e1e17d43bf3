"""Opens a bundle, verifies it and runs it; this is what ships."""
