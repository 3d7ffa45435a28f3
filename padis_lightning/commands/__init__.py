"""The commands besides fit and predict."""
