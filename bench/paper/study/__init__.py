"""The user study of the paper's appendix B: a page to ask people with, and what they answered.

:mod:`.pairs` holds what is asked, :mod:`.page` writes it as one HTML file, :mod:`.results` reads
the files that people saved, :mod:`.score` counts, :mod:`.report` shows.
"""
