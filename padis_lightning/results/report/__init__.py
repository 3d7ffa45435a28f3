"""The report: a page of one result folder, or of several against each other, and what it is made of."""
