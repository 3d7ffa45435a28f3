"""Other libraries' operators and denoisers as ours, and ours as theirs: one library a file, imported only when it is used."""
