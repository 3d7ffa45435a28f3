"""What predict leaves behind: arrays, pictures, scores, records and pages."""
