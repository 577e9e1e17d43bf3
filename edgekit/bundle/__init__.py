"""The bundle: what a build leaves behind and what a device opens.

``manifest`` the two documents · ``documents`` their bytes, strictly both ways · ``paths`` which
names a file in a bundle may have · ``rules`` what a manifest must say to make sense · ``source``
reads a folder or memory · ``zipped`` the one zip encoding and its strict reader · ``verify`` checks
everything and hands on the checked bytes · ``place`` puts a folder in place at once or not at all ·
``seal`` writes bundles, packs and unpacks them · ``beside`` whether a folder and its zip are the
same. Standard library only; imports ``core``.
"""
