"""What may be compressed, and how far: sites, genes, levels, costs, constraints and moves."""
