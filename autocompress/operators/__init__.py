"""How one site is compressed, and the level database."""
