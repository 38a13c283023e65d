"""Ready-made sources, as data: `extends: <name>` in a rules file. Performs no I/O."""
