"""The winner as something deployable: recipe, checkpoint, gate and report."""
