"""What a person looks at: tables, the model card, and the JSON of any result.

``parts`` holds the shapes that all tables share (values wrap, nothing is cut, colour carries no
meaning); ``verdict``, ``figures``, ``strategy``, ``catalog`` and ``bundle`` render what the rooms
below produce; ``card`` writes the Markdown that travels in a bundle; ``plain`` gives JSON. Results
of ``flow`` are put together in ``cli.views``. To add a table: a function that takes values of the
rooms below and gives a rich renderable.
"""
