"""A target's plug-in as somebody else would write it: installed beside edgekit, not in the venv."""
