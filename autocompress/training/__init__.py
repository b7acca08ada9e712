"""Short trainings of compressed models: distillation from the dense one."""
