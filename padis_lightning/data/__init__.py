"""Images and measurements: generators, readers, sources, and the data modules that serve them."""
