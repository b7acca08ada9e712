"""The command line: flags and files in, one line for every failure out."""
