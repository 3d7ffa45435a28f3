"""What a GPU is wanted for: everything that has to be measured on one, ordered by worth, in a few minutes."""
