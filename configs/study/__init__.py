"""The studies: lists of experiments that are compared, `get_study(size)`."""
