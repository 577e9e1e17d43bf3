"""A user's samples, in any shape, as named arrays on disk.

``samples`` and ``items`` take apart what people iterate over; ``preprocess`` (with ``image``,
``audio``, ``text`` and ``files``) makes raw samples into tensors as the contract declares;
``checks`` writes them and holds the sets apart; ``dataset`` reads and writes the format on disk,
which ``dataset_meta`` describes; ``folders`` and ``tables`` read data that lie in files. numpy
alone at import, and no torch: its tensors are told by what they offer.

To add a kind of file, read it into a ``tables.SampleSource`` and choose it in ``read_folder``.
"""
