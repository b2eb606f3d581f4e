"""A session as one file that any store can take in. docs/export-format.md has it byte by byte."""
