"""What the command line says and takes: errors as sentences, configs by name, the names that a config may use."""
