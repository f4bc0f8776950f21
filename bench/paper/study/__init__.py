"""The user study of the paper's appendix B: a page to ask people with, and what they answered."""
