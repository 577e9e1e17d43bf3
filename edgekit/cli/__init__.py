"""The command line: parses and prints, decides nothing.

``main`` holds the table of commands and the way out (errors to exit codes); each other module
holds the commands of one topic and is imported only when one of them is called, so that
``edgekit --help`` costs click and nothing else. ``output`` owns the two streams: results go to
stdout, everything else to stderr. To add a command: write it in its topic's module with an
example in its help, and add a row to ``main.COMMANDS``.
"""
